"""What the clients' prompts answered on their own test examples.

The answers are kept while the examples are scored, so nothing is asked twice. Pooled over clients they give the
confusion of classes, and examples that went right and wrong. Where several classes fit an example there is no
confusion, and they give the average precision of each class instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.measures.mean_ap import MeanAveragePrecision
from promptfed.scores import as_if_uniform, predicted
from promptfed.types import Split

MOST_COUNTS = 100_000
"""Pairs of a true and a predicted class that are counted; beyond, the rarest are left out."""
RIGHT_SHARE = 2
"""One in so many of the chosen examples is one that went right."""


class Answer(NamedTuple):
    """One example: its place among the client's test examples, its class, the prediction (-1: no answer).

    ``is_right``: whether that is its class, or one of them; ``confidence``: probability of the prediction;
    ``of_truth``: of the right class.
    """

    client: int
    place: int
    truth: int
    prediction: int
    is_right: bool
    confidence: float
    of_truth: float


@dataclass
class OwnAnswers:
    """Answers on the clients' own test examples among all of so many ``classes``, added client by client."""

    classes: int
    clients: list[int] = field(default_factory=list)
    _rows: list[Tensor] = field(default_factory=list)
    _probabilities: list[Tensor] = field(default_factory=list)
    _graded: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, client: int, split: Split, scores: Tensor) -> None:
        """Keep what ``scores`` ``(n, classes or more)`` say of the examples in ``split``."""
        scores = scores[:, : self.classes].detach().float().cpu()
        prediction = predicted(scores)
        shares = F.softmax(as_if_uniform(scores), -1)
        best = shares.gather(1, prediction.clamp(min=0)[:, None])[:, 0].where(prediction >= 0, 0.0)
        places = torch.arange(len(split))
        self.clients.append(client)
        right = split.is_right(prediction).long()
        self._rows.append(torch.stack([torch.full_like(places, client), places, split.labels, prediction, right], 1))
        if split.grades is not None:
            self._graded.append((scores, split.grades))
        self._probabilities.append(torch.stack([best, shares.gather(1, split.labels[:, None])[:, 0]], 1))

    def __len__(self) -> int:
        return sum(map(len, self._rows))

    def counts(self) -> list[tuple[int, int, int]]:
        """Return (true class, predicted class, examples), at most ``MOST_COUNTS`` of them; -1 stands for no answer.

        None where several classes fit an example.
        """
        if not self._rows or self._graded:
            return []
        pairs, counts = torch.cat(self._rows)[:, 2:4].unique(dim=0, return_counts=True)
        most = counts.argsort(descending=True, stable=True)[:MOST_COUNTS].sort().values
        chosen = zip(pairs[most].tolist(), counts[most].tolist(), strict=True)
        return [(truth, prediction, count) for (truth, prediction), count in chosen]

    def right(self) -> list[bool]:
        """Return whether each example is answered right, client by client."""
        if not self._rows:
            return []
        return [bool(is_right) for is_right in torch.cat(self._rows)[:, 4].tolist()]

    def average_precisions(self) -> list[tuple[int, float, int]]:
        """Return (class, its average precision, examples that it fits) of graded examples; empty without any.

        Those of all clients are ranked together.
        """
        if not self._graded:
            return []
        scores, grades = (torch.cat(parts) for parts in zip(*self._graded, strict=True))
        measure = MeanAveragePrecision()
        each = measure.by_class(measure.total(scores, grades))
        shown = (grades.nan_to_num(0.0) > 0).sum(0).tolist()
        return [(k, value, shown[k]) for k, value in enumerate(each) if value is not None]

    def chosen(self, most: int) -> list[Answer]:
        """Return at most ``most`` examples to look at: wrong ones first, then right ones.

        Of the wrong ones, those that the model is surest of, no confusion twice before all have had their turn. Of
        the right ones, a class each, the surest and the least sure in turn.
        """
        if most < 1 or not self._rows:
            return []
        rows, shares = torch.cat(self._rows).tolist(), torch.cat(self._probabilities).tolist()
        answers = [
            Answer(client, place, truth, prediction, bool(is_right), confidence, of_truth)
            for (client, place, truth, prediction, is_right), (confidence, of_truth) in zip(rows, shares, strict=True)
        ]
        wrong = sorted((a for a in answers if not a.is_right), key=lambda a: -a.confidence)
        right = sorted((a for a in answers if a.is_right), key=lambda a: -a.confidence)
        n_right = min(len(right), max(most // RIGHT_SHARE, most - len(wrong)))
        ends = [right[k // 2] if k % 2 == 0 else right[-1 - k // 2] for k in range(len(right))]
        picked = list(_in_turns([(a.truth, a.prediction) for a in wrong], wrong))[: most - n_right]
        return picked + list(_in_turns([(a.truth,) for a in ends], ends))[:n_right]


def _in_turns(keys: Sequence[tuple[int, ...]], answers: Sequence[Answer]) -> Iterator[Answer]:
    """Yield the first answer of every key, then the second of every key, and so on."""
    turns: dict[tuple[int, ...], int] = {}
    order = []
    for number, key in enumerate(keys):
        turns[key] = turns.get(key, -1) + 1
        order.append((turns[key], number))
    yield from (answers[number] for _, number in sorted(order))
