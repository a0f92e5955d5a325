"""PFPT: a server matches clients' prompts, taken as sets, to global ones, however many (Weng et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field

from promptfed.aggregators.base import Aggregator, AggregatorWrapper
from promptfed.inserts.soft_prompt import EMBEDDINGS
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.prompt_matching import match_prompts, match_to
from promptfed.prompts.soft_prompt_method import SoftPromptConfig, SoftPromptMethod
from promptfed.types import Update

POOL, LAST, MATCH = "pool", "last/", "match/"


class PFPTConfig(SoftPromptConfig):
    """PFPT's options."""

    noise: float = Field(
        0.5,
        gt=0,
        description="how far a client's vector lies from its global one, in units of the round's mean change; the "
        "larger, the fewer global ones",
    )
    mass: float = Field(1.0, gt=0, description="gamma of the buffet process: multiplies the odds of a new global one")


@METHODS.register("pfpt")
class PFPT(SoftPromptMethod):
    """The server takes a client's prompt for a set of vectors, each a noisy copy of one of the global ones.

    How many global vectors there are is inferred in every round, with the matching (promptfed.prompts.prompt_matching):
    clients whose vectors went different ways no longer share them. A client is sent the global vectors that its own
    were matched to, in the order of its own.

    Shared: ``prompt_embeddings`` ``(n, width)``, for somebody who never took part the n vectors that most clients
    have. Server: ``pool`` ``(global, width)``, ``last/K`` ``(n, width)`` what client K sent last, ``match/K`` ``(n,)``
    its vectors' places in the pool; those of clients that were not in the round are the nearest to their last.
    Personal: nothing. The head, if trained, is averaged.

    Different from the paper: there, vectors' variances and the odds of global ones are two networks, which the server
    fits anew by Adam between the assignments, and images choose vectors from the whole pool, which all clients have.
    Here the variance is one number for the round, the odds are those of an Indian buffet process, both in closed
    form, and clients have prompts of equal length. Vision there, language here.
    """

    name: ClassVar[str] = "PFPT"
    paper: ClassVar[str] = "Weng et al. 2024, NeurIPS, arXiv 2502.19752"
    trains: ClassVar[str] = "soft prompt (n, width)"
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)
    Config = PFPTConfig
    config: PFPTConfig

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return MatchingServer(aggregator, self.config.noise, self.config.mass)


class MatchingServer(AggregatorWrapper):
    """Matches prompts; ``inner`` merges all other tensors.

    Args:
        inner: The rule of the other tensors.
        noise: Standard deviation about a global vector, over the root mean square of the round's changes.
        mass: Of the buffet process.
    """

    def __init__(self, inner: Aggregator, noise: float, mass: float) -> None:
        super().__init__(inner)
        self.noise, self.mass = noise, mass

    def broadcast(self, shared: PromptState, server: PromptState, client: int | None) -> PromptState:
        if client is None or MATCH + str(client) not in server:
            return shared
        return PromptState({**shared, EMBEDDINGS: server[POOL][server[MATCH + str(client)]]})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        merged, _ = self.inner.apply(shared, updates, server)
        prompts = torch.stack([update.shared[EMBEDDINGS] for update in updates])
        starts = torch.stack([self.broadcast(shared, server, update.client)[EMBEDDINGS] for update in updates])
        change = math.sqrt((prompts - starts).double().square().mean().item())
        matching = match_prompts(prompts, self.noise * change, self.mass, [update.samples for update in updates])
        last = {name: tensor for name, tensor in server.items() if name.startswith(LAST)}
        last |= {LAST + str(update.client): update.shared[EMBEDDINGS] for update in updates}
        matches = {MATCH + name.removeprefix(LAST): match_to(t, matching.prompts) for name, t in last.items()}
        matches |= {MATCH + str(u.client): places for u, places in zip(updates, matching.places, strict=True)}
        n = prompts.shape[1]
        usual = matching.counts.argsort(descending=True, stable=True)[:n].sort().values
        memory = PromptState({POOL: matching.prompts, **last, **matches})
        return PromptState({**merged, EMBEDDINGS: matching.prompts[usual]}), memory
