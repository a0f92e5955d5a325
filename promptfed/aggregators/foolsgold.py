"""FoolsGold: clients that keep pulling the same way count less (Fung, Yoon and Beschastnikh 2020, RAID).

With ``h_i`` the sum of all changes that client i ever sent (arXiv 1808.04866, Algorithm 1):

    cs_ij = cos(h_i, h_j),  v_i = max_{j != i} cs_ij
    cs_ij <- cs_ij v_i / v_j  where v_i < v_j                 pardon: an honest client that resembles a sybil
    a_i = 1 - max_j cs_ij,  a_i <- a_i / max_j a_j,  a_i <- clip(ln(a_i / (1 - a_i)) + 0.5, 0, 1)
    theta <- theta + sum_i a_i D_i / sum_i a_i
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.aggregators.base import AGGREGATORS, Aggregator, RobustConfig
from promptfed.aggregators.deltas import difference_rows
from promptfed.aggregators.mean import merged
from promptfed.prompt_state import PromptState
from promptfed.types import Update

CLIENTS, HISTORY = "clients", "history"
ALIKE = 1e-9
"""If no client is at a larger cosine distance from its likest, the digits that are left are rounding."""


def foolsgold_weights(histories: Tensor) -> Tensor:
    """Return the weights ``(n,)``, 0 to 1, of clients with ``histories`` ``(n, values)``; one alone has weight 1."""
    unit = F.normalize(histories, dim=1)
    cosines = (unit @ unit.T).clamp(-1, 1).fill_diagonal_(0)  # as the authors' code: no similarity below 0 counts
    highest = cosines.amax(1)
    pardon = torch.where(highest[:, None] < highest, highest[:, None] / highest, torch.ones_like(cosines))
    weights = 1 - (cosines * pardon).amax(1)
    if weights.max() <= ALIKE:
        return torch.zeros_like(weights)
    return (torch.logit(weights / weights.max()) + 0.5).clamp(0, 1)


@AGGREGATORS.register("foolsgold")
class FoolsGold(Aggregator):
    """Mean in which clients whose changes over all rounds are alike count less: sybils that share a goal.

    Histories are kept by client number, also while a client is absent, and those present are compared. If all of them
    do the same to nine digits, the prompt stays as it is. Server memory: ``clients`` (n,), rising, and ``history``
    (n, values). Honest clients with the same data look like sybils, and one malicious client alone like an honest one.
    Different from the paper: all values count in the cosine (no weighting by importance), and the weighted sum is
    divided by the sum of weights, so that the step does not grow with the number of clients. A history that would leave
    float32 stays as it was.
    """

    Config = RobustConfig

    def init(self, shared: PromptState) -> PromptState:
        values = sum(tensor.numel() for tensor in shared.values())
        return PromptState({CLIENTS: torch.zeros(0, dtype=torch.int64), HISTORY: torch.zeros(0, values)})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        histories = dict(zip(server[CLIENTS].tolist(), server[HISTORY].double(), strict=True))
        for update, row in zip(updates, difference_rows(shared, updates), strict=True):
            before = histories.get(update.client, torch.zeros_like(row))
            after = before + row
            histories[update.client] = after if after.float().isfinite().all() else before
        memory = {
            CLIENTS: torch.tensor(sorted(histories)),
            HISTORY: torch.stack([histories[client] for client in sorted(histories)]),
        }
        weights = foolsgold_weights(torch.stack([histories[update.client] for update in updates])).tolist()
        counting = [(update, weight) for update, weight in zip(updates, weights, strict=True) if weight > 0]
        if counting:
            shared = merged(shared, [update for update, _ in counting], [weight for _, weight in counting])
        return shared, PromptState(memory)
