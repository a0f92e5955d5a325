"""From hidden states to scores of classes: label words, cosines to label descriptions, or a linear layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.errors import ConfigError
from promptfed.examples.base import ANSWER_CLASSES, Item
from promptfed.language_models.answers import check_classes
from promptfed.language_models.insert import Insert
from promptfed.language_models.model import SCALE, LanguageModel
from promptfed.printable import printable
from promptfed.prompt_state import PromptState
from promptfed.scores import answer_scores
from promptfed.types import NO_PROMPT

WEIGHT, BIAS = "head.weight", "head.bias"
"""Names of the linear head's tensors."""


class Head(ABC):
    """Reads a batch of texts with an insert, and scores classes.

    Args:
        model: The frozen language model.
        classes: All classes of the run, in the order of a trained head.
        reserve: Tokens of the insert, which texts leave free.
    """

    name: ClassVar[str]

    def __init__(self, model: LanguageModel, classes: Sequence[str], reserve: int = 0) -> None:
        self.model, self.classes, self.reserve = model, tuple(classes), reserve

    def start(self) -> PromptState:
        """Return the head's own tensors before training; empty for a head that is frozen."""
        return NO_PROMPT

    @abstractmethod
    def scores(
        self, values: Mapping[str, Tensor], insert: Insert, items: Sequence[Item], classes: Sequence[str]
    ) -> Tensor:
        """Return scores ``(items, classes)``; their softmax are the probabilities.

        Args:
            values: Trained tensors, the head's own among them.
            insert: What the model reads with.
            items: The texts.
            classes: Which classes, by name.
        """

    def loss(
        self, values: Mapping[str, Tensor], insert: Insert, items: Sequence[Item], labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of all classes of the run, and the scores ``(items, classes)``."""
        scores = self.scores(values, insert, items, self.classes)
        answers = labels.to(scores) if labels.is_floating_point() else labels.to(scores.device)
        return F.cross_entropy(scores, answers), scores


class Verbalizer(Head):
    """The word head's logits of the label words: behind the text, at the mask, or at the decoder's first place."""

    name = "verbalizer"

    def __init__(self, model: LanguageModel, classes: Sequence[str], reserve: int = 0) -> None:
        super().__init__(model, classes, reserve)
        if not model.has_words:
            raise ConfigError(
                f"option 'head' is 'verbalizer', and '{model.name}' is an encoder without a head that predicts words: "
                "use --set method.head=cosine or linear, or a causal or masked model"
            )
        model.label_ids(classes)

    def scores(
        self, values: Mapping[str, Tensor], insert: Insert, items: Sequence[Item], classes: Sequence[str]
    ) -> Tensor:
        states = self.model.states(items, insert, reserve=self.reserve)
        return self.model.word_logits(states, self.model.label_ids(classes))


class CosineHead(Head):
    """Scaled cosines of a text's mean state and those of the classes' descriptions, which are read without an insert.

    The template around texts is not used. An encoder's own way of zero-shot classification is this.
    """

    name = "cosine"

    def __init__(self, model: LanguageModel, classes: Sequence[str], reserve: int = 0) -> None:
        super().__init__(model, classes, reserve)
        if model.has_words:
            raise ConfigError(
                f"option 'head' is 'cosine', which goes with encoders, and '{model.name}' is a {model.family} model: "
                "use --set method.head=verbalizer or linear"
            )

    def scores(
        self, values: Mapping[str, Tensor], insert: Insert, items: Sequence[Item], classes: Sequence[str]
    ) -> Tensor:
        return self.model.cosines(self.model.states(items, insert, reserve=self.reserve), classes)


class LinearHead(Head):
    """A linear layer on the state that the frozen head would read; it is trained and sent.

    It starts as the frozen head: rows of the label words, or scaled embeddings of the descriptions. Its ``classes *
    (width + 1)`` numbers may be more than those of a short prompt.
    """

    name = "linear"

    def start(self) -> PromptState:
        with torch.no_grad():
            if self.model.has_words:
                head = self.model.model.get_output_embeddings()
                weight = head.weight[self.model.label_ids(self.classes)].float()
            else:
                weight = SCALE * self.model.class_means(self.classes)
        return PromptState({WEIGHT: weight.cpu().clone(), BIAS: torch.zeros(len(self.classes))})

    def scores(
        self, values: Mapping[str, Tensor], insert: Insert, items: Sequence[Item], classes: Sequence[str]
    ) -> Tensor:
        hidden = self.model.states(items, insert, reserve=self.reserve)
        if not self.model.has_words:
            hidden = F.normalize(hidden, dim=-1)
        scores = F.linear(hidden, values[WEIGHT].to(hidden), values[BIAS].to(hidden))
        if tuple(classes) == self.classes:
            return scores
        places = {name: column for column, name in enumerate(self.classes)}
        if strange := [name for name in classes if name not in places]:
            raise ConfigError(
                f"a linear head knows the classes that it was trained on, and '{printable(strange[0])}' is none of "
                "them: use --set method.head=verbalizer or cosine"
            )
        return scores[:, [places[name] for name in classes]]


class Completion(Head):
    """Mean over answers of the mean -log probability of their tokens, given the question and the insert.

    Its scores are those of answers in free text (``promptfed.scores``): right or wrong, F1 of the words, likelihood.
    """

    name = "completion"

    def __init__(self, model: LanguageModel, classes: Sequence[str], reserve: int = 0) -> None:
        super().__init__(model, classes, reserve)
        check_classes(classes)

    def scores(
        self, values: Mapping[str, Tensor], insert: Insert, items: Sequence[Item], classes: Sequence[str]
    ) -> Tensor:
        return self.model.answers.scores(insert, items, classes, reserve=self.reserve)

    def loss(
        self, values: Mapping[str, Tensor], insert: Insert, items: Sequence[Item], labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, and scores in which an answer is right if each of its tokens is the most likely one."""
        losses, hits = self.model.answers.likelihood(insert, items, reserve=self.reserve)
        return losses.mean(), answer_scores(hits, hits, -losses.detach())


HEADS: Mapping[str, type[Head]] = {head.name: head for head in (Verbalizer, CosineHead, LinearHead, Completion)}


def build_head(name: str, model: LanguageModel, classes: Sequence[str], reserve: int = 0) -> Head:
    """Return the head called ``name``; "auto" is the frozen one that fits.

    Raises:
        ConfigError: The model has no such head, or label words begin with the same token.
    """
    is_free = tuple(classes) == ANSWER_CLASSES
    if name == "auto":
        name = "completion" if is_free else "verbalizer" if model.has_words else "cosine"
    if is_free and name != "completion":
        raise ConfigError(
            f"option 'head' is '{name}', which scores classes, and these data have answers in free text: use --set "
            "method.head=auto"
        )
    return HEADS[name](model, classes, reserve)
