"""The head that learns to write: the loss of an answer's tokens, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from promptfed.examples.base import Item
from promptfed.language_models.answers import Answers, check_classes
from promptfed.language_models.heads import Head
from promptfed.language_models.insert import Insert
from promptfed.language_models.model import LanguageModel
from promptfed.scores import answer_scores


class Completion(Head):
    """Mean over answers of the mean -log probability of their tokens, given question and insert.

    Its scores are those of answers in free text (``promptfed.scores``): right or wrong, F1 of the words, likelihood.
    """

    name = "completion"

    def __init__(self, model: LanguageModel, classes: Sequence[str], reserve: int = 0) -> None:
        super().__init__(model, classes, reserve)
        check_classes(classes)
        self.answers = Answers(model)

    def scores(
        self, values: Mapping[str, Tensor], insert: Insert, items: Sequence[Item], classes: Sequence[str]
    ) -> Tensor:
        return self.answers.scores(insert, items, classes, reserve=self.reserve)

    def loss(
        self, values: Mapping[str, Tensor], insert: Insert, items: Sequence[Item], labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, and scores in which an answer is right if each of its tokens is the most likely one."""
        losses, hits = self.answers.likelihood(insert, items, reserve=self.reserve)
        with torch.no_grad():
            scores = answer_scores(hits, hits, -losses.detach())
        return losses.mean(), scores
