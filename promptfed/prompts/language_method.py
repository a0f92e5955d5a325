"""What all methods on language models share: an insert that is trained, a head that scores, one loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.examples.base import QuestionItem
from promptfed.frozen_model import Kind
from promptfed.inserts.base import InsertKind
from promptfed.language_models.heads import build_head
from promptfed.local_training import GradientTraining, LocalObjective, LocalSteps
from promptfed.prompt_state import PromptState
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, ClientPrompt, Split

MIXED_ANSWERS = (
    "answers in free text are written with one prompt, so the scores of two cannot be mixed: use prompt space (--space "
    "prompt), or a method without several"
)


class LanguageConfig(LocalSteps):
    """Options of every method on language models."""

    head: Literal["auto", "verbalizer", "cosine", "linear", "completion"] = Field(
        "auto",
        description="what turns states into scores: label words (verbalizer), cosines to label descriptions, a "
        "linear layer, which is trained and sent, or the likelihood of written answers (completion); auto: what fits",
    )


class LanguageMethod(GradientTraining):
    """A method that trains an insert of a frozen language model by cross-entropy.

    A method says which kind of insert (``make_kind``). By default all its tensors are trained, sent, and predicted
    with; override ``values``, ``trained_names`` and ``split_update`` for anything else.
    """

    model_kind: ClassVar[Kind] = "language model"
    keeps: ClassVar[str] = "texts"
    classes_apart: ClassVar[bool] = True
    config: LanguageConfig

    def __init__(self, config: LanguageConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.model = setup.language_model
        self.kind = self.make_kind()
        self.head = build_head(config.head, self.model, setup.classes, self.reserve)

    @abstractmethod
    def make_kind(self) -> InsertKind:
        """Return the kind of insert that is trained. Raises ConfigError if the model does not take it."""

    @property
    def reserve(self) -> int:
        """Tokens of the insert, which every text leaves free."""
        return int(getattr(self.config, "n_tokens", 0))

    def start(self, *purpose: str | int) -> PromptState:
        """Return the tensors of insert and head before training."""
        return PromptState({**self.kind.start(*purpose), **self.head.start()})

    def init_shared(self) -> PromptState:
        return self.start()

    # --------------------------------------------------------------------------------------------- training

    def values(self, shared: PromptState, personal: PromptState) -> PromptState:
        """Return all tensors that a client predicts with; by default what it is sent."""
        return shared

    def trained_names(self, round: int, values: PromptState) -> Collection[str]:
        """Return which of ``values`` a client trains in ``round``; by default all."""
        return list(values)

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        values = self.values(broadcast.shared, personal)
        return self.objective(values, data.train, self.trained_names(broadcast.round, values))

    def objective(self, values: PromptState, split: Split, names: Collection[str] | None = None) -> LocalObjective:
        """Return the cross-entropy to a split's ``answers``.

        Args:
            values: All tensors that scores are made with.
            split: The training examples.
            names: Those that are trained; None: all. The others stay what they are.
        """
        start = PromptState({name: values[name] for name in (values if names is None else names)})
        fixed = {name: tensor.to(self.model.device) for name, tensor in values.items() if name not in start}

        def loss(parameters: Mapping[str, Tensor], features: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
            return self.loss_on({**fixed, **parameters}, split, rows)

        return LocalObjective(start, split.labels, loss)

    def loss_on(self, tensors: Mapping[str, Tensor], split: Split, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy of some ``rows`` of a split, and their scores ``(rows, classes)``.

        Args:
            tensors: All tensors that scores are made with; gradients flow to them.
            split: The examples.
            rows: Places in ``split``, ``(rows,)``.
        """
        items = [split.items[row] for row in rows.tolist()]
        return self.head.loss(tensors, self.kind.insert(tensors), items, split.answers[rows.cpu()])

    # ------------------------------------------------------------------------------------------- prediction

    def scores_with(self, values: Mapping[str, Tensor], classes: Sequence[str], split: Split) -> Tensor:
        """Return scores ``(n, classes)`` of a split's texts with these tensors, without a gradient."""
        tensors = {name: tensor.to(self.model.device) for name, tensor in values.items()}
        with torch.no_grad():
            return self.head.scores(tensors, self.kind.insert(tensors), split.items, classes)

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        return self.scores_with(self.values(shared, personal), classes, split)

    def client_logits(self, prompt: ClientPrompt, classes: Sequence[str], split: Split) -> Tensor:
        """As every method's. Raises ConfigError for a mixture of the scores of answers in free text."""
        if self.head.name == "completion" and self.ends(prompt)[1] is not None:
            raise ConfigError(MIXED_ANSWERS)
        return super().client_logits(prompt, classes, split)

    def write(self, prompt: ClientPrompt, questions: Sequence[str]) -> list[str]:
        """Return what the model answers to each question with what a client deploys.

        Raises:
            ConfigError: The method was not trained to write, or it does so with several prompts.
        """
        pair, general = self.ends(prompt)
        values = self.one_insert(*pair)
        if general is not None or values is None or self.head.name != "completion":
            raise ConfigError(MIXED_ANSWERS)
        tensors = {name: tensor.to(self.model.device) for name, tensor in values.items()}
        items = [QuestionItem(question) for question in questions]
        return self.model.answers.write(self.kind.insert(tensors), items, reserve=self.reserve)

    def one_insert(self, shared: PromptState, personal: PromptState) -> PromptState | None:
        """Return the tensors of the one insert (and head) that scores are made with; for export.

        None: several predict together. By default those of ``values``, and None if ``logits`` is the method's own.
        """
        return self.values(shared, personal) if type(self).logits is LanguageMethod.logits else None

    def tuned_blend(self, shared: PromptState, tuned: PromptState, alpha: float) -> PromptState | None:
        """As every method's, by the kind of insert: the mixture of two models is not always that of their tensors."""
        return self.kind.interpolate(shared, tuned, alpha)
