"""Clients' prompt tokens as sets: how many global tokens there are behind them, and which client has which.

The model: a global token is ``theta_i ~ N(mu, s0^2 I)``. Client k has some of the global tokens, each at most once, and
its token is ``v_kj ~ N(theta_i, s^2 I)``. Which it has follows an Indian buffet process of K clients: one that m of
the others have with odds ``m : K - m``, and Poisson(gamma / K) new ones. With every theta integrated out, one client's
best choice given all the others' is a linear assignment, and clients choose in turn until nobody changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PromptMatching:
    """Global tokens, and where each client's tokens are among them.

    Attributes:
        prompts: ``(global, dim)``, each the weighted mean of the tokens matched to it. They stand in the order of the
            mean position that these have at their clients.
        counts: ``(global,)`` int64, how many clients have each; at least one.
        places: ``(clients, n)`` int64, the global token of each client's tokens; no row names one twice.
    """

    prompts: Tensor
    counts: Tensor
    places: Tensor


def match_prompts(
    prompts: Tensor, noise: float, mass: float = 1.0, weights: Sequence[float] | None = None, sweeps: int = 10
) -> PromptMatching:
    """Infer the global tokens behind the ``prompts`` of clients, and match each client's tokens to them.

    mu and s0 are the mean and the spread of all tokens of all clients.

    Args:
        prompts: ``(clients, n, dim)``.
        noise: s, the standard deviation of each number of a client's token about its global token. Towards 0 each
            client has tokens of its own; the larger, the more clients share.
        mass: gamma, which multiplies the odds of a new global token.
        weights: Of each client in the means; None: all equal.
        sweeps: How often clients choose in turn at most.

    >>> matching = match_prompts(torch.tensor([[[0.0], [9.0]], [[9.5], [0.5]], [[50.0], [0.25]]]), noise=0.3)
    >>> matching.prompts.flatten().tolist(), matching.counts.tolist(), matching.places.tolist()
    ([50.0, 9.25, 0.25], [1, 2, 3], [[2, 1], [1, 2], [0, 2]])
    """
    tokens = prompts.double()
    clients, n, _ = tokens.shape
    pool = _Pool(tokens, noise, mass)
    places = torch.full((clients, n), -1)
    for _ in range(sweeps):
        before = places.clone()
        for client in range(clients):
            pool.remove(tokens[client], places[client])
            places[client] = pool.choose(tokens[client])
            pool.add(tokens[client], places[client])
        if torch.equal(places, before):
            break
    return _in_order(tokens, places, torch.tensor([1.0] * clients if weights is None else weights, dtype=torch.float64))


def match_to(tokens: Tensor, prompts: Tensor) -> Tensor:
    """Return the place among ``prompts`` ``(global, dim)`` of each of ``tokens`` ``(n, dim)``, global at least n.

    No two share one, and the sum of the squared distances is the least.
    """
    return _assign(-(torch.cdist(tokens.double(), prompts.double(), compute_mode="donot_use_mm_for_euclid_dist") ** 2))


def _assign(scores: Tensor) -> Tensor:
    """Return a column for each row of ``scores``, all different, such that their sum is the greatest."""
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(linear_sum_assignment(scores.numpy(), maximize=True)[1])


class _Pool:
    """The global tokens while clients choose: sums and counts of the tokens matched to each.

    A place stays with a global token as long as anybody has one there.
    """

    def __init__(self, tokens: Tensor, noise: float, mass: float) -> None:
        self.clients, self.n, dim = tokens.shape
        self.mean = tokens.mean((0, 1))
        self.spread2 = max((tokens - self.mean).square().mean().item(), 1e-30)
        self.noise2 = max(noise * noise, 1e-12 * self.spread2)
        self.mass = mass
        self.sums = tokens.new_zeros(self.clients * self.n, dim)
        self.counts = tokens.new_zeros(self.clients * self.n)

    def add(self, tokens: Tensor, places: Tensor) -> None:
        self.sums[places] += tokens
        self.counts[places] += 1

    def remove(self, tokens: Tensor, places: Tensor) -> None:
        if places[0] < 0:
            return
        self.sums[places] -= tokens
        self.counts[places] -= 1
        self.sums[self.counts == 0] = 0

    def choose(self, tokens: Tensor) -> Tensor:
        """Return the best place of each of one client's tokens; a place that nobody has is a new global token."""
        occupied = (self.counts > 0).nonzero()[:, 0]
        free = (self.counts == 0).nonzero()[:, 0][: self.n]
        columns = torch.cat([occupied, free])
        counts = self.counts[columns]
        precision = 1 / self.spread2 + counts / self.noise2
        means = (self.mean / self.spread2 + self.sums[columns] / self.noise2) / precision[:, None]
        variances = self.noise2 + 1 / precision
        distances2 = torch.cdist(tokens, means, compute_mode="donot_use_mm_for_euclid_dist").square()
        scores = -0.5 * (distances2 / variances + tokens.shape[1] * variances.log())
        new = math.log(self.mass / self.clients) - torch.arange(1.0, len(free) + 1, dtype=torch.float64).log()
        odds = (counts[: len(occupied)] / (self.clients - counts[: len(occupied)])).log()
        return columns[_assign(scores + torch.cat([odds, new]))]


def _in_order(tokens: Tensor, places: Tensor, weights: Tensor) -> PromptMatching:
    """Return the matching with global tokens numbered by the mean position of their members, then by appearance."""
    clients, n, dim = tokens.shape
    _, flat, counts = places.flatten().unique(return_inverse=True, return_counts=True)
    shares = weights.repeat_interleave(n)
    totals = shares.new_zeros(len(counts)).index_add(0, flat, shares)
    sums = tokens.new_zeros(len(counts), dim).index_add(0, flat, tokens.reshape(-1, dim) * shares[:, None])
    positions = shares.new_zeros(len(counts)).index_add(0, flat, torch.arange(n).double().repeat(clients)) / counts
    order = sorted(range(len(counts)), key=lambda i: (positions[i].item(), flat.tolist().index(i)))
    rank = torch.empty(len(order), dtype=torch.int64)
    rank[order] = torch.arange(len(order))
    means = (sums / totals[:, None])[order]
    return PromptMatching(means.float(), counts[order], rank[flat].reshape(clients, n))
