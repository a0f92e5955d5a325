"""Reliability: every client is sent a mixture of the others' prompts, by accuracy and likeness.

Zhu, Togo, Ogawa and Haseyama 2024, arXiv 2402.09677. The server sends client t

    p_t^s = sum_{i != t} eta_ti p_i,   eta_ti = a_i c_ti / sum_{j != t} a_j c_tj,   c_ti = max(cos(p_i, p_t), 0)

with a_i the accuracy of client i. The client's own loss belongs to the method ``reliable``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import AGGREGATORS, PEER, Aggregator, AggregatorConfig
from promptfed.aggregators.mean import merged
from promptfed.prompt_state import PromptState
from promptfed.types import Update

CLIENT, ACCURACY, SCORE, ROUNDS = "client/", "accuracy/", "score/", "rounds"
PEER_SCORES = "peer_scores"
"""What a client sends back for the prompts of others that it was sent: an accuracy above chance of each."""
PEERS = 2
"""How many prompts of others a client scores in a round."""


class ReliabilityConfig(AggregatorConfig):
    """Options of the mixtures."""

    reliability: Literal["reported", "cross", "none"] = Field(
        "reported",
        description="a client's accuracy is what it says, the median of what others measure, or the same for all",
    )
    chance: float = Field(0.0, ge=0, lt=1, description="accuracy that guessing reaches, taken off what clients report")


def above_chance(accuracy: float, chance: float) -> float:
    """Return ``(accuracy - chance) / (1 - chance)``, at least 0; 0 for an accuracy that nobody knows (NaN).

    >>> above_chance(0.75, 0.5), above_chance(0.3, 0.5)
    (0.5, 0.0)
    """
    return 0.0 if math.isnan(accuracy) else max(0.0, (accuracy - chance) / (1 - chance))


def mixture(rows: Tensor, reliabilities: Tensor, index: int) -> Tensor:
    """Return eta ``(n,)`` over prompts ``rows`` ``(n, values)`` for the client in row ``index``.

    If no other has a weight, the client's own prompt has all of it.

    Args:
        rows: A prompt in each row, float64.
        reliabilities: ``(n,)``, none negative.
        index: The row of the client.
    """
    lengths = rows.norm(dim=1)
    units = rows / torch.where(lengths > 0, lengths, 1.0)[:, None]
    weights = reliabilities.to(rows) * (units @ units[index]).clamp(min=0)
    weights[index] = 0
    total = weights.sum()
    if total > 0:
        return weights / total
    weights[index] = 1
    return weights


def peers_of(clients: Sequence[int], client: int, rounds: int) -> list[int]:
    """Return whose prompts ``client`` scores after so many ``rounds``; each prompt goes to as many clients.

    >>> [peers_of([0, 1, 2, 3], 0, rounds) for rounds in (0, 1, 2)]
    [[1, 2], [3, 1], [2, 3]]
    """
    others = len(clients) - 1
    steps = dict.fromkeys(1 + (PEERS * rounds + k) % others for k in range(min(PEERS, others))) if others > 0 else {}
    place = clients.index(client)
    return [clients[(place + step) % len(clients)] for step in steps]


@AGGREGATORS.register("reliability")
class Reliability(Aggregator):
    """Each client is sent the others' last prompts, weighted by their accuracy and their cosine to its own prompt.

    Server memory: ``client/K/NAME``, the last prompt of every client that ever sent one; ``accuracy/K``, what it said
    of it. With ``reliability=cross`` also ``score/J/K``, what client J measured of client K's prompt, and ``rounds``.
    ``shared`` is the mean of a round's prompts, weighted by reliability, for somebody who never took part.
    Different from the paper: negative cosines count as 0, and where all weights are 0 a client is sent its own prompt;
    accuracies are taken above chance; ``cross`` does not believe what a client says of itself.
    """

    Config = ReliabilityConfig
    config: ReliabilityConfig

    @property
    def sends_peers(self) -> bool:
        return self.config.reliability == "cross"

    def init(self, shared: PromptState) -> PromptState:
        return PromptState({ROUNDS: torch.zeros(1, dtype=torch.int64)}) if self.sends_peers else PromptState()

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        memory = dict(server)
        if self.sends_peers:
            memory |= self._scores(updates, server)
        prompts = [_prompt(shared, update) for update in updates]
        for update, prompt in zip(updates, prompts, strict=True):
            # a tensor that a client did not send counts as unchanged
            memory |= {f"{CLIENT}{update.client}/{name}": tensor for name, tensor in {**shared, **prompt}.items()}
            memory[f"{ACCURACY}{update.client}"] = torch.tensor([update.accuracy])
        reliabilities = self.reliabilities(memory, [update.client for update in updates])
        weights = [reliabilities[update.client] for update in updates]
        bare = [Update(u.client, p, u.samples, u.loss, u.accuracy) for u, p in zip(updates, prompts, strict=True)]
        return merged(shared, bare, weights if _all_weighed(bare, weights) else [1.0] * len(bare)), PromptState(memory)

    def _scores(self, updates: Sequence[Update], server: PromptState) -> dict[str, Tensor]:
        """Return what the clients of ``updates`` measured of the prompts that they were sent."""
        clients, rounds = _clients(server), int(server[ROUNDS])
        scores: dict[str, Tensor] = {ROUNDS: torch.tensor([rounds + 1])}
        for update in updates:
            if update.client in clients and PEER_SCORES in update.shared:
                values = update.shared[PEER_SCORES].double().clamp(0, 1).flatten()
                for peer, value in zip(peers_of(clients, update.client, rounds), values, strict=False):
                    scores[f"{SCORE}{update.client}/{peer}"] = value[None]
        return scores

    def reliabilities(self, server: Mapping[str, Tensor], clients: Sequence[int]) -> dict[int, float]:
        """Return the reliability of each of ``clients``, in 0..1; all have the same until others scored them."""
        config = self.config
        if config.reliability == "none":
            return dict.fromkeys(clients, 1.0)
        if config.reliability == "reported":
            return {c: above_chance(server[f"{ACCURACY}{c}"].item(), config.chance) for c in clients}
        scores: dict[int, list[float]] = {}
        for name, score in server.items():
            if name.startswith(SCORE):
                scores.setdefault(int(name.rpartition("/")[2]), []).append(score.item())
        usual = median(median(some) for some in scores.values()) if scores else 1.0
        return {c: median(scores[c]) if c in scores else usual for c in clients}

    def broadcast(self, shared: PromptState, server: PromptState, client: int | None) -> PromptState:
        clients = _clients(server)
        if client is None or client not in clients:
            return shared
        prompts = {name: torch.stack([server[f"{CLIENT}{c}/{name}"].double() for c in clients]) for name in shared}
        rows = torch.cat([tensors.flatten(1) for tensors in prompts.values()], 1)
        reliabilities = self.reliabilities(server, clients)
        weights = mixture(rows, torch.tensor([reliabilities[c] for c in clients]), clients.index(client))
        mixture_of_all = {name: torch.tensordot(weights, tensors, 1) for name, tensors in prompts.items()}
        peers = peers_of(clients, client, int(server[ROUNDS])) if self.sends_peers else []
        return PromptState(
            mixture_of_all
            | {f"{PEER}{k}/{name}": server[f"{CLIENT}{peer}/{name}"] for k, peer in enumerate(peers) for name in shared}
        )


def _prompt(shared: PromptState, update: Update) -> PromptState:
    """Return what of an update is prompt."""
    return PromptState({name: tensor for name, tensor in update.shared.items() if name in shared})


def _all_weighed(updates: Sequence[Update], weights: Sequence[float]) -> bool:
    """Return whether every tensor that somebody sent has a sender with a weight."""
    sent = {name for update in updates for name in update.shared}
    weighed = {name for update, weight in zip(updates, weights, strict=True) if weight > 0 for name in update.shared}
    return sent == weighed


def _clients(server: Mapping[str, Tensor]) -> list[int]:
    return sorted(int(name.removeprefix(ACCURACY)) for name in server if name.startswith(ACCURACY))
