"""FedKgCoOp: PromptFL with KgCoOp's pull towards a hand-written template (Qiu et al. 2024; Yao et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.class_sample import ClassSample
from promptfed.local_training import LocalObjective, Parameters
from promptfed.method import METHODS
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.prompts.templates import HandTemplate, template_features
from promptfed.prompts.text_context import training_classes
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData


class KgCoOpConfig(PromptFLConfig, HandTemplate):
    """PromptFL's options, and the strength and the aim of the pull."""

    n_ctx: int = Field(4, ge=1, le=64, description="number of context tokens (taken from `init` when that is given)")
    weight: float = Field(8.0, ge=0, description="strength of the pull towards the template; 0 is PromptFL")


@METHODS.register("kgcoop")
class KgCoOp(PromptFL):
    """Each client minimises ``CE + w (1 - mean_c cos(T_c, g(template_c)))`` over the classes of its softmax.

    ``T_c`` is the feature of class c with the learned context, ``g(template_c)`` that of the hand-written sentence.

    Shared: ``ctx`` ``(n_ctx, dim)``. Personal: nothing. The template's features are computed once and kept.
    The pull is what FedTPG's released code adds. The paper takes a template of its own for each data set; here it is
    the task's first one, or ``template``. Otherwise as PromptFL.
    """

    name: ClassVar[str] = "FedKgCoOp"
    paper: ClassVar[str] = "Yao et al. 2023, arXiv 2303.13283; federated in Qiu et al. 2024, arXiv 2310.06123"
    takes_sigmoid_loss: ClassVar[bool] = True
    example_dp: ClassVar[bool] = True
    Config = KgCoOpConfig

    def __init__(self, config: KgCoOpConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.weight, self.template = config.weight, config.template

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        plain = super().problem(broadcast, data, personal)
        classes, _ = training_classes(self.tuner.config.label_space, self.setup, data)
        template = template_features(self.setup, classes, self.template)

        def pull(parameters: Parameters, features: Sequence[Tensor], sample: ClassSample) -> Tensor:
            likeness = sample.mean(F.cosine_similarity(features[0], sample.of(template), dim=-1))
            return self.weight * (1 - likeness)

        return replace(plain, penalties=(*plain.penalties, pull))
