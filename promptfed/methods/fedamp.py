"""PromptFL with FedAMP: every client is sent a mixture made for it (Huang et al., AAAI 2021, arXiv 2007.03797)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from promptfed.local_training import LocalObjective
from promptfed.method import METHODS
from promptfed.methods.promptfl import PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.prompts.personal_context import LOCAL, PersonalContextMethod
from promptfed.prompts.proximal import with_proximal_term
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData


class FedAMPConfig(PromptFLConfig):
    """PromptFL's options, and the pull. The aggregator ``fedamp`` has the options of the mixtures."""

    pull: float = Field(1.0, ge=0, description="lambda / alpha of the paper: strength of the pull to the mixture")


@METHODS.register("fedamp")
class FedAMP(PersonalContextMethod):
    """Client k minimises ``CE(w) + lambda / (2 alpha) ||w - u_k||^2`` with ``u_k`` the mixture that it receives.

    Shared: ``ctx`` ``(n_ctx, dim)``; client k is sent ``u_k``, weighted by the similarity of the others' last contexts.
    Personal: ``local`` of the same shape, its last ``w_k``. The paper's personal model is ``w_k``, so a client
    predicts with it; a client that never took part has the mean of all.

    Different from the paper: it minimises exactly, where we take ``local_epochs`` from ``u_k`` on, as the proximal
    step towards ``u_k`` suggests (other implementations go on from the last ``w_k``).
    """

    name: ClassVar[str] = "PromptFL+FedAMP"
    paper: ClassVar[str] = "Huang et al. 2021, arXiv 2007.03797, on PromptFL"
    aggregators: ClassVar[tuple[str, ...]] = ("fedamp",)
    Config = FedAMPConfig

    def __init__(self, config: FedAMPConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.pull = config.pull

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        return with_proximal_term(super().problem(broadcast, data, personal), self.pull)

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        return trained, PromptState({LOCAL: trained["ctx"]})
