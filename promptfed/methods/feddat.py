"""FedDAT: a personal prompt and a frozen copy of the shared one teach it, and it teaches them (Chen et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.local_training import LocalObjective
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState, tensors_under
from promptfed.prompts.distillation import distillation
from promptfed.prompts.soft_prompt_method import SoftPromptConfig, SoftPromptMethod
from promptfed.types import Broadcast, ClientData, Split

LOCAL = "local/"
"""Before the names of a client's own tensors."""


class FedDATConfig(SoftPromptConfig):
    """FedDAT's options."""

    temperature: float = Field(3.0, gt=0, description="of the two distillations")


@METHODS.register("feddat")
class FedDAT(SoftPromptMethod):
    """Mutual distillation between a shared prompt P_g and a teacher of two: a personal P_l, and the broadcast P_0.

    The teacher's scores are ``s_T = (s(P_l) + s(P_0)) / 2``. Each step minimises ``(CE(s(P_g)) + KL_t(s_T -> s(P_g)))
    / 2 + (CE(s_T) + KL_t(s(P_g) -> s_T)) / 2``, where a KL's first argument is detached; both are 0 where all three
    prompts are equal. Only P_g and P_l are trained.

    Shared: ``prompt_embeddings`` ``(n, width)`` P_g, and with head=linear the head. Personal: the same tensors behind
    ``local/``; P_l starts as the first broadcast. A client deploys the mean of the scores with P_l and with what it is
    sent; somebody who never took part has the shared prompt alone.

    Different from the paper: prompts in the place of adapters, so the mean is of scores, not of the adapters' outputs
    in each layer. The released code steps on P_g and then on P_l; here one step has both halves, each with the other
    as it was before the step. P_0 does not change within a round, so its scores are computed once in it.
    """

    name: ClassVar[str] = "FedDAT"
    paper: ClassVar[str] = "Chen et al. 2024, AAAI, arXiv 2308.12305"
    trains: ClassVar[str] = "two soft prompts (n, width), one of them sent"
    keeps: ClassVar[str] = "texts, local prompt"
    classes_apart: ClassVar[bool] = True
    Config = FedDATConfig
    config: FedDATConfig

    # --------------------------------------------------------------------------------------------- training

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        shared, split = broadcast.shared, data.train
        local = personal if len(personal) else PromptState({LOCAL + name: shared[name] for name in shared})
        copies: list[Tensor] = []

        def loss(parameters: Mapping[str, Tensor], features: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
            if not copies:
                copies.append(self.scores_with(shared, self.setup.classes, split))
            entropy, scores = self.loss_on({name: parameters[name] for name in shared}, split, rows)
            _, local_scores = self.loss_on(tensors_under(parameters, LOCAL), split, rows)
            teacher = (local_scores + copies[0][rows]) / 2
            teacher_entropy = F.cross_entropy(teacher, split.answers[rows.cpu()].to(teacher.device))
            temperature = self.config.temperature
            student_part = entropy + distillation(scores, teacher, temperature)
            teacher_part = teacher_entropy + distillation(teacher, scores, temperature)
            return (student_part + teacher_part) / 2, teacher

        return LocalObjective(PromptState({**shared, **local}), split.labels, loss)

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        local = {name: tensor for name, tensor in trained.items() if name.startswith(LOCAL)}
        return PromptState({name: trained[name] for name in broadcast.shared}), PromptState(local)

    # ------------------------------------------------------------------------------------------- prediction

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        scores = self.scores_with(shared, classes, split)
        if not len(personal):
            return scores
        return (scores + self.scores_with(tensors_under(personal, LOCAL), classes, split)) / 2
