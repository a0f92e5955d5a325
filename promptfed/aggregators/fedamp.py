"""FedAMP's server: every client is sent its own mixture of similar prompts (Huang et al., AAAI 2021).

The paper (arXiv 2007.03797) minimises ``sum_k F_k(w_k) + lambda sum_{j<k} A(|w_k - w_j|^2)`` with
``A(x) = 1 - exp(-x / s)``. Its server step, with ``A'(x) = exp(-x / s) / s``, sends client k

    u_k = sum_j xi_kj w_j,   xi_kj = a_k A'(|w_k - w_j|^2) for j != k,   xi_kk = 1 - sum_{j != k} xi_kj

and its heuristic for large models, HeurFedAMP, fixes ``xi_kk`` and shares out the rest by
``xi_kj ~ exp(sigma cos(w_k, w_j))``. The client's proximal term towards ``u_k`` belongs to the method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.aggregators.base import AGGREGATORS, Aggregator, AggregatorConfig
from promptfed.aggregators.mean import mean_by_samples
from promptfed.prompt_state import PromptState
from promptfed.types import Update

CLIENT = "client/"


class AttentiveMeanConfig(AggregatorConfig):
    """Options of FedAMP's mixtures."""

    similarity: Literal["distance", "cosine"] = Field("distance", description="the paper's, or HeurFedAMP's")
    alpha: float = Field(1.0, gt=0, le=1, description="strength of mixing by distance; 1: equals are averaged")
    sigma: float = Field(1.0, gt=0, description="by distance: width, in mean squared distances; by cosine: sharpness")
    self_weight: float | None = Field(None, ge=0, le=1, description="xi_kk by cosine; by default 1 / clients")


def distance_mixture(rows: Tensor, index: int, alpha: float, sigma: float) -> Tensor:
    """Return weights ``(n,)`` over ``rows`` ``(n, values)`` for the client in row ``index``: FedAMP.

    ``xi_kj = (alpha / n) exp(-|w_k - w_j|^2 / (sigma d))``, where ``d`` is the mean squared distance between two
    clients. So no weight is negative, equal prompts are averaged, and one ``sigma`` fits prompts of any size.
    """
    n = len(rows)
    if n == 1:
        return torch.ones(1, dtype=rows.dtype)
    mean_squared = 2 * (rows - rows.mean(0)).square().sum() / (n - 1)
    squared = (rows - rows[index]).square().sum(1)
    attention = torch.exp(-squared / (sigma * mean_squared)) if mean_squared > 0 else torch.ones_like(squared)
    weights = alpha / n * attention
    weights[index] = 0
    weights[index] = 1 - weights.sum()
    return weights


def cosine_mixture(rows: Tensor, index: int, sigma: float, self_weight: float) -> Tensor:
    """Return weights ``(n,)`` over ``rows`` ``(n, values)`` for the client in row ``index``: HeurFedAMP."""
    if len(rows) == 1:
        return torch.ones(1, dtype=rows.dtype)
    cosines = F.cosine_similarity(rows, rows[index : index + 1])
    cosines[index] = -torch.inf
    weights = (1 - self_weight) * torch.softmax(sigma * cosines, 0)
    weights[index] = self_weight
    return weights


@AGGREGATORS.register("fedamp")
class AttentiveMean(Aggregator):
    """FedAMP's server: each client is sent a mixture of all clients' last prompts, weighted by similarity to its own.

    Sample counts play no part in the mixtures. Server memory: ``client/K/NAME``, the last prompt of every client that
    ever sent one, also of clients that sit a round out. ``shared`` is the mean by samples of the last round; a client
    without an update so far is sent that.
    Different from the paper: ``a_k / s`` is ``alpha / n`` and ``s`` is ``sigma`` times the mean squared distance.
    """

    Config = AttentiveMeanConfig
    config: AttentiveMeanConfig

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        # a tensor that a client did not send counts as unchanged
        last = {
            f"{CLIENT}{update.client}/{name}": tensor
            for update in updates
            for name, tensor in {**shared, **update.shared}.items()
        }
        return mean_by_samples(shared, updates), PromptState({**server, **last})

    def broadcast(self, shared: PromptState, server: PromptState, client: int | None) -> PromptState:
        clients = sorted({int(key.split("/")[1]) for key in server if key.startswith(CLIENT)})
        if client not in clients:
            return shared
        prompts = {
            name: torch.stack([server[f"{CLIENT}{peer}/{name}"].double() for peer in clients]) for name in shared
        }
        rows = torch.cat([tensors.flatten(1) for tensors in prompts.values()], 1)
        weights = self._weights(rows, clients.index(client))
        return PromptState({name: torch.tensordot(weights, tensors, 1) for name, tensors in prompts.items()})

    def _weights(self, rows: Tensor, index: int) -> Tensor:
        config = self.config
        if config.similarity == "distance":
            return distance_mixture(rows, index, config.alpha, config.sigma)
        self_weight = 1 / len(rows) if config.self_weight is None else config.self_weight
        return cosine_mixture(rows, index, config.sigma, self_weight)
