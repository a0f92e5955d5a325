"""FLTrust: clients count by how far they agree with one that the server trusts (Cao, Fang, Liu and Gong 2021, NDSS).

With ``D_0`` the change that the server's own small data set, the root set, makes (arXiv 2012.13995, Algorithm 2):

    TS_i = ReLU(cos(D_i, D_0)),   theta <- theta + sum_i TS_i (|D_0| / |D_i|) D_i / sum_i TS_i
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.aggregators.base import AGGREGATORS, Aggregator, RobustConfig
from promptfed.aggregators.deltas import difference, difference_rows
from promptfed.aggregators.mean import Mean, weighted_mean
from promptfed.errors import ConfigError
from promptfed.prompt_state import PromptState
from promptfed.types import Update

log = logging.getLogger(__name__)


class FLTrustConfig(RobustConfig):
    """Options of FLTrust."""

    root: int | None = Field(None, ge=0, description="number of the client that the server trusts: its root set")


def trust_scores(rows: Tensor, root: Tensor) -> Tensor:
    """Return ``ReLU(cos)`` ``(n,)`` of the changes ``rows`` ``(n, values)`` to the trusted ``root`` ``(values,)``."""
    return F.cosine_similarity(rows, root[None], eps=0).nan_to_num(0).clamp_min(0)


@AGGREGATORS.register("fltrust")
class FLTrust(Aggregator):
    """Mean of changes, cut to the length of a trusted client's and weighted by their cosine with it.

    The root set is the data of one client, ``root``, which whoever runs the server must own: a site of its own with
    public examples, say. A server without data cannot use this rule. A round in which that client sends nothing leaves
    the prompt as it is, so all clients should take part (``participation`` 1). If nobody agrees with it, the prompt
    stays as well. In the local-only baseline of a federation of one, the rule is the mean.
    Different from the paper: the root change comes from a client, trained like all others, instead of from the server;
    it counts for nothing but direction and length, as there. A missing tensor counts as unchanged in the cosine.
    """

    Config = FLTrustConfig
    config: FLTrustConfig

    def check(self, clients: int) -> None:
        if self.config.root is None:
            raise ConfigError(
                "fltrust needs a client that the server trusts, whose data is the root set: "
                "use --set aggregator.root=NUMBER, or a rule that trusts nobody, such as --aggregator median"
            )

    def alone(self) -> Aggregator:
        return Mean(self.config)

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        roots = [update for update in updates if update.client == self.config.root]
        others = [update for update in updates if update.client != self.config.root]
        if not roots:
            log.warning("the trusted client, %s, sent nothing: the prompt is left as it was", self.config.root)
            return shared, server
        if not others:
            return shared, server
        root, rows = difference_rows(shared, roots)[0], difference_rows(shared, others)
        scores = trust_scores(rows, root).tolist()
        factors = (root.norm() / rows.norm(dim=1)).tolist()
        scaled = [
            {name: shared[name].double() + change * factor for name, change in difference(shared, update).items()}
            for update, score, factor in zip(others, scores, factors, strict=True)
            if score > 0
        ]
        if not scaled:
            return shared, server
        return PromptState({**shared, **weighted_mean(scaled, [score for score in scores if score > 0])}), server
