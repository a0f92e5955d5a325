"""The baseline without training: class names in the best of several hand-written templates (Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.blackbox.oracles.query import Candidate
from promptfed.errors import ConfigError
from promptfed.measures.selection import Selection
from promptfed.method import METHODS, FeatureMethod
from promptfed.prompt_state import PromptState
from promptfed.prompts.templates import template_features
from promptfed.scores import mean_loss, predicted
from promptfed.truth import truth_of
from promptfed.types import Broadcast, ClientData, Split, Update


@METHODS.register("zero_shot")
class ZeroShot(FeatureMethod):
    """Choose the best hand-written template on validation data, in one federated round.

    Each client scores every template on its own validation images over all base classes, and the server averages the
    scores by sample count. On a black box the templates are the task's hand-written prompts.

    Shared: ``accuracy`` ``(templates,)``, or of another measure of option ``selection`` its ``merit``, negative where
    lower is better. Personal: nothing. Of equal scores, the first template wins.
    """

    name: ClassVar[str] = "zero-shot"
    paper: ClassVar[str] = "CLIP: Radford et al. 2021, arXiv 2103.00020"
    trains: ClassVar[str] = "nothing; the best template is chosen"
    access: ClassVar[Literal["white box", "black box", "any"]] = "any"
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)

    @property
    def rounds(self) -> int:
        return 1

    def init_shared(self) -> PromptState:
        return PromptState({self._tensor: torch.zeros(len(self.setup.templates))})

    @property
    def _tensor(self) -> str:
        """The name of what is sent."""
        return "accuracy" if Selection.of(self.setup.selection).is_accuracy else "merit"

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        split = data.val if len(data.val) else data.train
        selection = Selection.of(self.setup.selection)
        right, loss, merits = [], [], []
        with self.setup.model.account(round=broadcast.round, client=data.client):
            for logits in self.setup.model.scores_of_templates(self.setup.templates, split, self.setup.classes):
                right.append(split.is_right(predicted(logits).cpu()).float().mean())
                loss.append(mean_loss(logits, split.labels, len(self.setup.classes)))
                if not selection.is_accuracy:
                    truth = truth_of(selection.measure, split, logits.shape[1])
                    merits.append(selection.merit(selection.measure.figure(logits, truth)))
        scores = torch.tensor(merits) if merits else torch.stack(right)
        best = int(scores.argmax())
        scored = PromptState({self._tensor: scores})
        return Update(data.client, scored, len(split), loss[best], right[best].item()), personal

    def check_feasible(self, clients: Sequence[ClientData]) -> None:
        """Check that there are examples to score templates on: validation, or else training examples."""
        if not any(len(data.val) or len(data.train) for data in clients):
            raise ConfigError("no client holds an example to choose a template by: raise --shots or task.val_shots")

    def template(self, shared: PromptState) -> str:
        """Return the template that is best on validation data."""
        (merits,) = shared.values()
        return self.setup.templates[int(merits.argmax())]

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        """Return the candidate that a black box is sent."""
        return Candidate(self.template(shared))

    @property
    def reads_texts_only(self) -> bool:
        return self.setup.model.kind == "dual encoder"

    @property
    def scores_apart(self) -> bool:
        return self.setup.model.kind in ("dual encoder", "language model")

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        with torch.no_grad():
            return self.setup.model.template_scores(self.template(shared), split, classes)

    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        return F.normalize(template_features(self.setup, classes, self.template(shared)), dim=-1)
