"""FedNG: discrete prompts by nevergrad on the clients, selected by the ranks of all clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import Aggregator, AggregatorConfig
from promptfed.blackbox.base import ClientOracle, least
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.search.base import Tokens, ranks
from promptfed.blackbox.search.nevergrad_search import DEFAULT, NevergradSearch
from promptfed.blackbox.text.tensors import index_tensor
from promptfed.blackbox.tokens.base import TAG, TokenPromptConfig, TokenPromptMethod, indices, validation_rows
from promptfed.blackbox.tokens.vocabulary import random_tokens
from promptfed.method import METHODS, MethodConfig, Shape
from promptfed.prompt_state import PromptState
from promptfed.seeding import numpy_stream, torch_stream
from promptfed.types import Broadcast, ClientData, Update

TRIES = 3
"""Asks a search may make, in multiples of its evaluations: some strategies repeat candidates."""


class FedNGConfig(TokenPromptConfig):
    """FedNG's options."""

    optimizer: str = Field(DEFAULT, description="any name of nevergrad's registry")
    workers: int = Field(1, ge=1, description="prompts that a client asks for at a time")
    finalists: int = Field(8, ge=1, description="most prompts, besides the best so far, that clients rank in a round")
    ranking: float = Field(0.4, gt=0, lt=1, description="share of the allowance for ranking; all in the last round")


@METHODS.register("fedng")
class FedNG(TokenPromptMethod):
    """Each client ranks the finalists, searches on from its first choice, and sends its ranks and its find.

    The finalist with the best mean rank (by samples) is the federation's prompt; the finds are ranked next round.

    Shared: ``tokens`` ``(n_tokens,)`` and ``finalists`` ``(n, n_tokens)``, the first of which is the best so far,
    indices in int16; downwards also the vocabulary's tag. Sent up: ``tokens`` ``(n_tokens,)`` int16 and ``ranks``
    ``(n,)`` float32, 0 for the best. Personal: nothing.

    No loss is sent: a client that praises its own find sways the choice by its share of one ranking and no more.
    Ranks are of validation examples, finds of one batch of training examples. Finds of the last round could not be
    ranked, so clients only rank in it, with the whole budget. The first finalists are no prompt at all and random
    ones of one token, two, and so on.

    No paper describes this method: nevergrad inside a client, as its documentation advises for discrete spaces, and
    selection across clients as the literature on poisoned prompts suggests (reference 17).
    """

    name: ClassVar[str] = "FedNG"
    paper: ClassVar[str] = "none; nevergrad's discrete optimisers (Rapin and Teytaud 2018) in a federation"
    trains: ClassVar[str] = "token indices (n_tokens,)"
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)
    Config: ClassVar[type[MethodConfig]] = FedNGConfig
    last_round_differs: ClassVar[bool] = True
    config: FedNGConfig

    def init_shared(self) -> PromptState:
        stream, length = torch_stream(self.setup.seed, "fedng", "first prompts"), self.config.n_tokens
        first: list[Tokens] = [(0,) * length]
        for number in range(self.config.finalists):
            words = 1 + number % length
            first.append((*random_tokens(self.vocabulary, words, stream), *[0] * (length - words)))
        return ranked_state(first[0], first, self.vocabulary.tag)

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        return {"tokens": (self.config.n_tokens,), "ranks": (len(sent["finalists"]),)}

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return CrossRank(self.config.finalists, len(self.vocabulary), self.setup.seed)

    def step_queries(self, data: ClientData) -> int:
        """Return the queries of one example for each of the first prompts, in a run of one round.

        Else those of two prompts on a batch are added, after the finalists are ranked.
        """
        limit = self.config.finalists + 1
        if self.setup.rounds == 1:
            return limit
        examples, batch = len(data.val) or len(data.train), self.batch_of(data)

        def suffices(queries: int) -> bool:
            ranked = min(examples, max(1, int(self.config.ranking * queries) // limit))
            return queries - limit * ranked >= 2 * batch

        return least(limit + 2 * batch, suffices)

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        self.check_agreed(broadcast.shared)
        finalists = [indices(row) for row in broadcast.shared["finalists"]]
        is_last = broadcast.round >= self.setup.rounds
        share = 1.0 if is_last else self.config.ranking
        split, rows = validation_rows(desk, max(1, int(share * desk.left) // len(finalists)))
        losses = self.losses(desk, finalists, rows, split)
        best = finalists[int(np.argmin(ranks(losses)))]
        if not is_last:
            best = self._searched(desk, best)
        rank_tensor = torch.from_numpy(ranks(losses)).float()
        return PromptState({"tokens": index_tensor(best), "ranks": rank_tensor}), personal

    def _searched(self, desk: ClientOracle, start: Tokens) -> Tokens:
        """Return the prompt of least loss on one batch, out of all that the budget allows."""
        rows = desk.batch()
        budget = desk.left // len(rows)
        if budget < 2:
            return start
        length, size = self.config.n_tokens, len(self.vocabulary)
        workers = min(self.config.workers, budget)
        local = NevergradSearch(self.config.optimizer, length, size, budget, desk.stream, workers, start=start)
        fitness: dict[Tokens, float] = {}
        for _ in range(TRIES * budget):
            candidates = local.ask()
            new = list(dict.fromkeys(tokens for tokens in candidates if tokens not in fitness))
            if not desk.affords(len(new), rows):
                break
            if new:
                fitness.update(zip(new, self.losses(desk, new, rows).tolist(), strict=True))
            local.tell(candidates, [fitness[tokens] for tokens in candidates])
            if not desk.affords(1, rows):
                break
        return min(fitness, key=lambda tokens: (fitness[tokens], tokens)) if fitness else start

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        return self.prompt(indices(shared["tokens"]))


def ranked_state(best: Tokens, finalists: Sequence[Tokens], tag: Tensor) -> PromptState:
    """Return the shared state; ``finalists`` begin with ``best``."""
    rows = torch.stack([index_tensor(row) for row in finalists])
    return PromptState({"tokens": index_tensor(best), "finalists": rows, TAG: tag})


class CrossRank(Aggregator):
    """The finalist of best mean rank by samples wins, the earlier one of equals; the clients' finds are the next ones.

    A client's numbers are ranked again here, so that each client counts as one ranking. Finds that are no tokens are
    left out. If there are more than ``finalists``, they are drawn, in an order that does not depend on their clients.
    Server memory: ``round`` ``()``, merges so far.
    """

    def __init__(self, finalists: int, vocabulary_size: int, seed: int) -> None:
        super().__init__(AggregatorConfig())
        self.finalists, self.vocabulary_size, self.seed = finalists, vocabulary_size, seed

    def init(self, shared: PromptState) -> PromptState:
        return PromptState({"round": torch.zeros((), dtype=torch.int64)})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        ranked = [indices(row) for row in shared["finalists"]]
        mean_ranks = mean_rank([update.shared["ranks"] for update in updates], [update.samples for update in updates])
        best = ranked[int(np.argmin(mean_ranks))]
        finds = sorted({indices(update.shared["tokens"]) for update in updates} - {best})
        finds = [tokens for tokens in finds if all(0 <= index < self.vocabulary_size for index in tokens)]
        round = int(server["round"]) + 1
        order = numpy_stream(self.seed, "finalists", round).permutation(len(finds))[: self.finalists]
        state = ranked_state(best, [best, *(finds[i] for i in sorted(order))], shared[TAG])
        return state, PromptState({"round": torch.tensor(round)})


def mean_rank(rankings: Sequence[Tensor], samples: Sequence[int]) -> np.ndarray:
    """Return the mean ``(finalists,)`` of the clients' rankings, weighted by samples.

    It is rounded, so that the order of summation does not decide between equals.
    """
    rows = np.stack([ranks(numbers.double().numpy()) for numbers in rankings])
    weights = np.array(samples, dtype=np.float64)
    mean: np.ndarray = np.round(weights @ rows / weights.sum(), 9)
    return mean
