"""States of texts in a frozen language model, each computed once in a process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.examples.base import Item, TextItem
from promptfed.language_models.model import SCALE, LanguageModel

MOST_TEXTS = 50_000
"""Texts whose states are kept."""


class TextStates:
    """What a frozen model says of each text, without an insert.

    Args:
        model: The frozen language model.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self._states: dict[str, Tensor] = {}

    @torch.no_grad()
    def of(self, items: Sequence[Item]) -> Tensor:
        """Return the states ``(items, width)``; the model reads those that it has not read yet."""
        lacking = {item.content_id(): item for item in items if item.content_id() not in self._states}
        if len(self._states) + len(lacking) > MOST_TEXTS:
            self._states.clear()
            lacking = {item.content_id(): item for item in items}
        if lacking:
            self._states |= zip(lacking, self.model.states(list(lacking.values())), strict=True)
        empty = torch.zeros(0, self.model.width, device=self.model.device)
        return torch.stack([self._states[item.content_id()] for item in items]) if len(items) else empty

    def unit(self, items: Sequence[Item]) -> Tensor:
        """Return the states ``(items, width)``, each of length 1."""
        return F.normalize(self.of(items), dim=-1)

    def unit_of_texts(self, texts: Sequence[str]) -> Tensor:
        """Return what ``unit`` does, of plain texts."""
        return self.unit([TextItem(text) for text in texts])

    def class_scores(self, means: Mapping[str, Tensor], classes: Sequence[str], items: Sequence[Item]) -> Tensor:
        """Return ``SCALE`` times the cosine ``(items, classes)`` of each item to each class.

        Args:
            means: Class -> its unit vector ``(width,)``; a class without one is told by the state of its description.
            classes: The classes, in the order of the scores.
            items: What is scored.
        """
        rows = [means[name] if name in means else self.model.class_means([name])[0] for name in classes]
        return SCALE * self.unit(items) @ torch.stack(rows).T
