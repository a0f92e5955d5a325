"""HETLORA: clients of different ranks, merged after padding with zeros (Cho et al., EMNLP 2024, arXiv 2401.06432)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from promptfed.aggregators.base import Aggregator
from promptfed.language_models.insert import Factors
from promptfed.low_rank import mean_factors, norm_shares, pad_truncate
from promptfed.method import METHODS
from promptfed.methods.flex_lora import first_components
from promptfed.prompt_state import PromptState
from promptfed.prompts.low_rank_method import LowRankConfig, LowRankMethod
from promptfed.prompts.low_rank_server import FactorServer, Tensors, Weights


@METHODS.register("het_lora")
class HetLoRA(LowRankMethod):
    """Clients train the first r_k components; the server pads with zeros and averages A and B by norm.

    A client's weight for a matrix is in proportion to ``|B_k A_k|``. Shared: ``lora_A`` ``(r_max, in)``, ``lora_B``
    ``(out, r_max)``; client k is sent, trains and sends the first ``r_k`` of them (``ranks``). Zeros pull the later
    components towards zero. With equal ranks and norms it is FedIT.
    Different from the paper: ranks are given and stay; its clients may also prune their own (a penalty on the last
    components). Components that nobody of a round holds stay as they were. All ranks have the scale of r_max.
    """

    name: ClassVar[str] = "HETLORA"
    paper: ClassVar[str] = "Cho et al. 2024, EMNLP, arXiv 2401.06432"
    trains: ClassVar[str] = "LoRA: A (r_k, in), B (out, r_k) for each target matrix"
    aggregators: ClassVar[tuple[str, ...]] = ("mean", "uniform")
    mixes_ranks: ClassVar[bool] = True
    has_common_scale: ClassVar[bool] = True
    Config = LowRankConfig

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return PaddedMean(aggregator, self)


class PaddedMean(FactorServer):
    """Means of padded factors, weighted by the norms of their products."""

    def __init__(self, inner: Aggregator, method: HetLoRA) -> None:
        super().__init__(inner, method.kind)
        self.method = method

    def broadcast(self, shared: PromptState, server: PromptState, client: int | None) -> PromptState:
        return first_components(self.kind, shared, self.method.rank(client))

    def merge_factors(self, path: str, changes: Sequence[Factors], weights: Weights, shared: PromptState) -> Tensors:
        rank = max(len(change.a) for change in changes)
        mean = mean_factors([pad_truncate(change, rank) for change in changes], norm_shares(changes))
        before = self.kind.factors(shared, path)
        a, b = torch.cat([mean.a, before.a[rank:].double()], 0), torch.cat([mean.b, before.b[:, rank:].double()], 1)
        return self.kind.named(path, Factors(a, b))
