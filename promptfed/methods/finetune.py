"""PromptFL+FT: after federation every client fine-tunes the shared context for itself (Profit's first recipe)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from promptfed.aggregators.base import Aggregator, AggregatorWrapper
from promptfed.local_training import train_clients
from promptfed.method import METHODS, TrainingJob
from promptfed.methods.promptfl import PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.prompts.personal_context import LOCAL, PersonalContextMethod
from promptfed.prompts.proximal import with_proximal_term
from promptfed.setup import Setup
from promptfed.types import Update


class FinetuneConfig(PromptFLConfig):
    """PromptFL's options for the federation, and those of the fine-tuning after it."""

    finetune_epochs: int = Field(10, ge=1, description="epochs of the last round, on each client's own images")
    finetune_lr: float = Field(0.003, gt=0, description="constant learning rate of the last round")
    l2_to_global: float = Field(0.0, ge=0, description="strength lambda of the pull towards the shared context")


@METHODS.register("finetune")
class Finetune(PersonalContextMethod):
    """All rounds are PromptFL's; in one more, every client trains the final ``ctx`` on its own images and keeps it.

    Shared: ``ctx`` ``(n_ctx, dim)``; in the last round clients send it back unchanged, and the server changes nothing.
    Personal, after the last round: ``local`` of the same shape, the minimum that ``finetune_epochs`` reach of
    ``CE(p) + l2_to_global / 2 ||p - ctx||^2`` (Collins et al. 2023). A client whose last round failed has ``ctx``.
    """

    name: ClassVar[str] = "PromptFL+FT"
    paper: ClassVar[str] = "Collins et al. 2023, arXiv 2310.04627, on PromptFL"
    takes_sigmoid_loss: ClassVar[bool] = True
    Config = FinetuneConfig
    last_round_differs: ClassVar[bool] = True

    def __init__(self, config: FinetuneConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.l2_to_global = config.l2_to_global
        last = {"lr": config.finetune_lr, "local_epochs": config.finetune_epochs, "schedule": "constant"}
        self.last_training = config.model_copy(update=last)

    @property
    def rounds(self) -> int:
        return self.setup.rounds + 1

    def participants(self, round: int, drawn: Sequence[int], clients: Sequence[int]) -> Sequence[int]:
        """Return all clients in the last round, in which everybody fine-tunes."""
        return clients if round > self.setup.rounds else drawn

    def train_many(self, jobs: Sequence[TrainingJob]) -> list[tuple[Update, PromptState]]:
        if not jobs or jobs[0][0].round <= self.setup.rounds:
            return super().train_many(jobs)
        problems = [
            (data.client, with_proximal_term(self.problem(*job), self.l2_to_global))
            for job in jobs
            for data in [job[1]]
        ]
        results = train_clients(problems, self.last_training, self.setup, jobs[0][0].round)
        return [
            (
                Update(data.client, broadcast.shared, len(data.train), fit.loss, fit.accuracy),
                PromptState({LOCAL: values["ctx"]}),
            )
            for (broadcast, data, _), (values, fit) in zip(jobs, results, strict=True)
        ]

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return UnlessUnchanged(aggregator)


class UnlessUnchanged(AggregatorWrapper):
    """Wrapper of ``inner`` under which a round of unchanged updates changes nothing.

    Neither noise nor the momentum of a server optimiser then moves the prompt.
    """

    sees_each = False

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        if all(update.shared == self.broadcast(shared, server, update.client) for update in updates):
            return shared, server
        return super().apply(shared, updates, server)
