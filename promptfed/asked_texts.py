"""Scores of answers to questions about images: the text tower reads a question together with each of its answers.

What an image is compared with is then no class name but "<question> <answer>", so that a prompt before it changes what
the answer means for that question. Every such text is encoded once, however many images are asked the question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.examples.base import Item
from promptfed.examples.visual_questions import VisualQuestion, questions_of
from promptfed.types import Split

NO_CANDIDATE = -1e3
"""The score of an answer that a question cannot have."""
AT_ONCE = 256
"""Texts that are encoded together where no gradient is needed."""


def is_asked(split: Split) -> bool:
    """Return whether the examples of ``split`` are questions about images."""
    return bool(split.items) and isinstance(split.items[0], VisualQuestion)


class AskedTexts:
    """The texts of some questions with their candidate answers.

    Attributes:
        names: Each text once.
        texts: ``(n, width)``, which of ``names`` belong to each question; -1 where it has fewer.
        columns: ``(n, width)``, the classes of the answers in them; the number of classes where it has fewer.
        classes: How many classes there are.
    """

    def __init__(self, items: Sequence[Item], classes: Sequence[str]) -> None:
        places = {name: k for k, name in enumerate(classes)}
        names: dict[str, int] = {}
        rows: list[list[tuple[int, int]]] = []
        for item in questions_of(tuple(items)):
            answers = [answer for answer in item.candidates if answer in places]
            rows.append([(names.setdefault(item.text(a), len(names)), places[a]) for a in answers])
        width = max((len(row) for row in rows), default=0)
        padded = [[*row, *[(-1, len(classes))] * (width - len(row))] for row in rows]
        self.names, self.classes = tuple(names), len(classes)
        both = torch.tensor(padded, dtype=torch.int64).reshape(len(rows), width, 2)
        self.texts, self.columns = both[..., 0], both[..., 1]

    def used(self, rows: Tensor) -> Tensor:
        """Return which texts ``(k,)`` the questions in ``rows`` need, rising."""
        texts = self.texts[rows.cpu()]
        used: Tensor = texts[texts >= 0].unique()
        return used

    def logits(self, images: Tensor, texts: Tensor, scale: float, rows: Tensor) -> Tensor:
        """Return scaled cosines ``(rows, classes)``; an answer that is no candidate has NO_CANDIDATE.

        Args:
            images: Unit features of the images of ``rows``.
            texts: Features of the texts ``used`` by ``rows``.
            scale: What cosines are multiplied by.
            rows: Which questions.
        """
        used, wanted = self.used(rows), self.texts[rows.cpu()].clamp(min=0)
        places = torch.searchsorted(used, wanted).clamp(max=max(0, len(used) - 1)).to(texts.device)
        columns = self.columns[rows.cpu()].to(texts.device)
        cosines = torch.einsum("nd,nwd->nw", images, F.normalize(texts, dim=-1)[places])
        scores = cosines.new_full((len(rows), self.classes + 1), NO_CANDIDATE)
        return scores.scatter(1, columns, scale * cosines)[:, : self.classes]


def asked_scores(
    split: Split, classes: Sequence[str], images: Tensor, scale: float, features: Callable[[Sequence[str]], Tensor]
) -> Tensor:
    """Return scores ``(n, classes)`` of a split of questions, without a gradient.

    Args:
        split: The questions.
        classes: The answers.
        images: ``(n, embed_dim)``, the features of the questions' images.
        scale: What cosines are multiplied by.
        features: From texts to their features.
    """
    asked, every = AskedTexts(split.items, classes), torch.arange(len(split.items))
    if not asked.names:
        return images.new_full((len(split.items), len(classes)), NO_CANDIDATE)
    parts = [asked.names[start : start + AT_ONCE] for start in range(0, len(asked.names), AT_ONCE)]
    texts = torch.cat([features(part) for part in parts])
    return asked.logits(F.normalize(images, dim=-1), texts, scale, every)
