"""The vocabulary words that lie nearest to learned context vectors: CoOp's way to look at a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import TokenEmbeddings
from promptfed.errors import ConfigError
from promptfed.printable import printable
from promptfed.prompt_state import PromptState

if TYPE_CHECKING:
    from promptfed.language_models.model import LanguageModel

Metric = Literal["euclidean", "cosine"]
METRICS: tuple[Metric, ...] = ("euclidean", "cosine")
TOKENS = 16_384
"""Tokens of a language model whose vectors are compared at once."""
ROWS = 256
"""Vectors that are compared with the whole vocabulary at once."""


@dataclass(frozen=True)
class VectorWords:
    """One context vector with the words around it.

    Attributes:
        context: The context's name.
        class_name: Its class; "" where all share it.
        position: Its position in the context, from 1.
        words: The nearest words with their distances, nearest first.
    """

    context: str
    class_name: str
    position: int
    words: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class NearestWords:
    """A row for each context vector; distances are ``metric``'s in the token embeddings of ``backbone``.

    The words are a hint at most: a context means what the text tower makes of all its vectors together.
    """

    rows: tuple[VectorWords, ...]
    metric: Metric
    backbone: str

    def __iter__(self) -> Iterator[VectorWords]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        """Show a table of plain text."""
        columns, rows = self.table()
        widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (columns, *rows)]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        columns, rows = self.table()
        head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in columns)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        return f"<p>{escape(self.title)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    @property
    def title(self) -> str:
        """Return the table's title, in one line."""
        return f"nearest words by {self.metric} distance among the token embeddings of {printable(self.backbone)}"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the columns and the rows as text; a column in which nothing differs is left out."""
        first = [
            column
            for column in ("context", "class_name")
            if len({getattr(row, column) for row in self.rows}) > 1 or (column == "class_name" and self._is_specific)
        ]
        words = [", ".join(f"{printable(word)} {distance:.3f}" for word, distance in row.words) for row in self.rows]
        rows = [
            [*(printable(getattr(row, column)) for column in first), str(row.position), text]
            for row, text in zip(self.rows, words, strict=True)
        ]
        return [*("class" if column == "class_name" else column for column in first), "#", "words"], rows

    @property
    def _is_specific(self) -> bool:
        return any(row.class_name for row in self.rows)

    def recorded(self) -> dict[str, Any]:
        """Return the table as JSON has it."""
        rows = [{**asdict(row), "words": [list(word) for word in row.words]} for row in self.rows]
        return {"metric": self.metric, "backbone": self.backbone, "vectors": rows}


def nearest_words(
    contexts: PromptState,
    table: TokenEmbeddings,
    *,
    classes: Sequence[str],
    backbone: str,
    count: int = 5,
    metric: str = "euclidean",
) -> NearestWords:
    """Return the words of ``table`` that are nearest to each vector of ``contexts``.

    Args:
        contexts: Contexts ``(n_ctx, dim)``, or one of each class ``(classes, n_ctx, dim)``, by their names. Those of
            the last classes may be left out.
        table: The words, and their embeddings ``(words, dim)``.
        classes: The names of the classes that a class-specific context is for.
        backbone: The name of the model whose words they are.
        count: How many words a vector gets.
        metric: "euclidean" (as CoOp has it) or "cosine", which is 1 - cosine.

    Raises:
        ConfigError: ``count`` is no positive number, or ``metric`` is another word.
    """
    metric_name = next((name for name in METRICS if name == metric), None)
    if metric_name is None:
        raise ConfigError(f"metric is '{printable(metric, 50)}': choose euclidean or cosine")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"count is {printable(count, 50)}: how many words a vector gets, 1 or more")
    rows = []
    for name, context in contexts.items():
        vectors = context.float().reshape(-1, context.shape[-1])
        distances, numbers = _nearest(vectors, table.vectors, min(count, len(table.words)), metric_name)
        owners = classes[: len(context)] if context.dim() == 3 else [""]
        places = [(owner, position) for owner in owners for position in range(context.shape[-2])]
        for (class_name, position), near, ids in zip(places, distances.tolist(), numbers.tolist(), strict=True):
            words = tuple((table.words[number], distance) for number, distance in zip(ids, near, strict=True))
            rows.append(VectorWords(name, class_name, position + 1, words))
    return NearestWords(tuple(rows), metric_name, backbone)


@torch.no_grad()
def nearest_tokens(vectors: Tensor, model: LanguageModel, count: int = 5) -> NearestWords:
    """Return the tokens of a language model that are nearest to each of ``vectors`` ``(n, width)``, by cosine.

    The vocabulary is read part by part: all of its vectors may be larger than the model's activations.
    """
    vectors = F.normalize(vectors.detach().float().to(model.device), dim=-1)
    size = len(model.model.get_input_embeddings().weight)
    best = torch.full((len(vectors), count), -2.0, device=model.device)
    numbers: Tensor | None = None
    for first in range(0, size, TOKENS):
        ids = range(first, min(first + TOKENS, size))
        cosines = vectors @ F.normalize(model.embed(ids), dim=-1).T
        places = torch.arange(first, ids.stop, device=model.device).expand(len(vectors), -1)
        cosines = torch.cat([best, cosines], 1)
        places = places if numbers is None else torch.cat([numbers, places], 1)
        cosines = cosines[:, count:] if numbers is None else cosines
        best, order = cosines.topk(min(count, cosines.shape[1]), 1)
        numbers = places.gather(1, order)
    assert numbers is not None
    rows = [
        VectorWords("prompt", "", place + 1, tuple((_shown(model, i), 1 - c) for i, c in zip(ids, near, strict=True)))
        for place, (ids, near) in enumerate(zip(numbers.tolist(), best.tolist(), strict=True))
    ]
    return NearestWords(tuple(rows), "cosine", model.name)


def _shown(model: LanguageModel, number: int) -> str:
    """Return a token as it is read: "-ing" for a part of a word, "word" for one that begins a word."""
    token = model.tokenizer.convert_ids_to_tokens(number)
    return model.tokens.said([number]).strip() or str(token)


def _nearest(vectors: Tensor, table: Tensor, count: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """Return distances and rows of ``table``, both ``(vectors, count)``, nearest first."""
    if metric == "cosine":
        vectors, table = F.normalize(vectors, dim=-1), F.normalize(table, dim=-1)
    parts = []
    for part in vectors.split(ROWS):
        # The fast way loses digits where a distance is small, so the nearest are measured once more.
        rough = 1 - part @ table.T if metric == "cosine" else torch.cdist(part, table)
        near = rough.topk(min(2 * count, len(table)), largest=False).indices
        exact = rough.gather(1, near) if metric == "cosine" else (part[:, None] - table[near]).norm(dim=-1)
        distances, order = exact.sort(dim=1, stable=True)
        parts.append((distances[:, :count], near.gather(1, order)[:, :count]))
    return torch.cat([distances for distances, _ in parts]), torch.cat([numbers for _, numbers in parts])
