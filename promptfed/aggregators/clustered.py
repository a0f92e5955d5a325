"""Clustered federation: clients that pull the prompt the same way get a prompt of their own (after Briggs et al. 2020).

Updates of one round, all from the same shared prompt, are clustered once by the cosine distance of their changes
(agglomerative, average linkage, by scikit-learn); from then on each cluster is a federation of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.aggregators.base import AGGREGATORS, Aggregator, AggregatorConfig
from promptfed.aggregators.deltas import difference_rows
from promptfed.aggregators.mean import mean_by_samples
from promptfed.errors import ConfigError
from promptfed.prompt_state import PromptState, tensors_under
from promptfed.types import Update

ROUNDS, MEMBERS, DIRECTIONS, CLUSTER = "rounds", "members", "directions", "cluster/"


class ClusteredConfig(AggregatorConfig):
    """Options of clustering."""

    clusters: int = Field(2, ge=1, description="how many clusters")
    threshold: float | None = Field(
        None,
        gt=0,
        le=2,
        description="instead of `clusters`: clusters further apart than this cosine distance stay apart",
    )
    warmup: int = Field(3, ge=1, description="rounds with one prompt for all; the last one's updates are clustered")


def cluster_by_direction(rows: Tensor, clusters: int, threshold: float | None) -> list[int]:
    """Cluster ``rows`` by the cosine distance between them.

    Args:
        rows: One direction for each client, ``(n, values)``, n >= 2. A row of zeros is at distance 1 from all others.
        clusters: How many clusters to make, unless ``threshold`` is given.
        threshold: Clusters further apart than this cosine distance (0 to 2) stay apart.

    Returns:
        The cluster of each row; clusters count from 0 in order of first appearance.
    """
    from sklearn.cluster import AgglomerativeClustering

    unit = F.normalize(rows, dim=1)
    distances = (1 - unit @ unit.T).clamp_min(0).fill_diagonal_(0)
    count = {"n_clusters": clusters} if threshold is None else {"n_clusters": None, "distance_threshold": threshold}
    labels = AgglomerativeClustering(metric="precomputed", linkage="average", **count).fit_predict(distances.numpy())
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels.tolist()))}
    return [numbers[label] for label in labels.tolist()]


@AGGREGATORS.register("clustered")
class Clustered(Aggregator):
    """One prompt for each cluster of clients that change the prompt in similar directions; means by samples.

    After ``warmup`` rounds the updates of one round are clustered; if fewer updates than clusters arrive, the next
    round is tried. A client without an update in that round joins, with its next update, the cluster whose mean
    direction is nearest. ``shared`` is the mean over all of a round's updates; clients without a cluster are sent it.
    Server memory: ``rounds`` (), ``members`` (n, 2) of client and cluster, ``directions`` (clusters, values),
    ``cluster/C/NAME``.
    """

    Config = ClusteredConfig
    config: ClusteredConfig

    def init(self, shared: PromptState) -> PromptState:
        return PromptState({ROUNDS: torch.zeros(())})

    def check(self, clients: int) -> None:
        if self.config.threshold is None and self.config.clusters > clients:
            raise ConfigError(
                f"clustered cannot make {self.config.clusters} clusters of {clients} updates a round: "
                f"use --set aggregator.clusters={clients} or fewer, or more clients a round"
            )

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        mean = mean_by_samples(shared, updates)
        if MEMBERS in server:
            return mean, self._follow(shared, updates, server)
        rounds = server[ROUNDS] + 1
        minimum = 2 if self.config.threshold is not None else max(2, self.config.clusters)
        if rounds < self.config.warmup or len(updates) < minimum:
            return mean, PromptState({ROUNDS: rounds})
        return mean, PromptState({ROUNDS: rounds, **self._divide(shared, updates)})

    def broadcast(self, shared: PromptState, server: PromptState, client: int | None) -> PromptState:
        members = membership(server)
        return shared if client is None or client not in members else cluster_prompt(server, members[client])

    def _divide(self, shared: PromptState, updates: Sequence[Update]) -> dict[str, Tensor]:
        """Return the server memory after the round whose updates make the clusters."""
        rows = difference_rows(shared, updates)
        numbers = cluster_by_direction(rows, self.config.clusters, self.config.threshold)
        unit = F.normalize(rows, dim=1)
        memory = {MEMBERS: torch.tensor([[u.client, n] for u, n in zip(updates, numbers, strict=True)])}
        directions = []
        for cluster in range(max(numbers) + 1):
            inside = [i for i, number in enumerate(numbers) if number == cluster]
            directions.append(unit[inside].mean(0))
            memory |= stored(cluster, mean_by_samples(shared, [updates[i] for i in inside]))
        return {**memory, DIRECTIONS: torch.stack(directions)}

    def _follow(self, shared: PromptState, updates: Sequence[Update], server: PromptState) -> PromptState:
        """Return the server memory after a later round: newcomers join, and each cluster merges its own updates."""
        members = membership(server)
        newcomers = [update for update in updates if update.client not in members]
        if newcomers:
            directions = F.normalize(server[DIRECTIONS].double(), dim=1)
            nearest = (difference_rows(shared, newcomers) @ directions.T).argmax(1)
            members |= {update.client: int(number) for update, number in zip(newcomers, nearest, strict=True)}
        memory = {**server, MEMBERS: torch.tensor(sorted(members.items()))}
        for cluster in sorted({members[update.client] for update in updates}):
            inside = [update for update in updates if members[update.client] == cluster]
            memory |= stored(cluster, mean_by_samples(cluster_prompt(server, cluster), inside))
        return PromptState(memory)


def membership(server: PromptState) -> dict[int, int]:
    """Return client -> cluster."""
    return {int(client): int(cluster) for client, cluster in server[MEMBERS].tolist()} if MEMBERS in server else {}


def cluster_prompt(server: PromptState, cluster: int) -> PromptState:
    """Return the prompt of ``cluster`` from server memory."""
    return PromptState(tensors_under(server, f"{CLUSTER}{cluster}/"))


def stored(cluster: int, prompt: PromptState) -> dict[str, Tensor]:
    """Return ``prompt`` under the names that it has in server memory."""
    return {f"{CLUSTER}{cluster}/{name}": tensor for name, tensor in prompt.items()}
