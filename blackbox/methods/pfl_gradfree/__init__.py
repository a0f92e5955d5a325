"""Gradient-free personalised federated prompts: local search over tokens, indices on the wire (Wang et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import Aggregator, AggregatorConfig
from promptfed.blackbox.base import ClientOracle, least
from promptfed.blackbox.methods.pfl_gradfree.analogy import NONE, Code, compose, decompose, nearest
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.search.base import Matrix, Tokens, Vector
from promptfed.blackbox.search.local_search import Propose
from promptfed.blackbox.text.tensors import index_tensor
from promptfed.blackbox.tokens.base import TAG, TokenPromptConfig, TokenPromptMethod, indices
from promptfed.blackbox.tokens.hill_climbing import climb, no_worse, reserve
from promptfed.blackbox.tokens.vocabulary import Vocabulary
from promptfed.blackbox.tokens.word_vectors import Embedder, word_vectors
from promptfed.method import METHODS, MethodConfig, Shape
from promptfed.prompt_state import PromptState
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split, Update

BLANK_CODE: Code = (0, NONE, NONE)


class PFLGradFreeConfig(TokenPromptConfig):
    """The method's options."""

    n_tokens: int = Field(3, ge=1, le=256, description="shared tokens, blanks included")
    n_personal: int = Field(2, ge=1, le=256, description="tokens of each client's own, after the shared ones")
    neighbours: int = Field(4, ge=1, description="changed prompts that are scored at a time, the best one kept")
    proposals: int = Field(8, ge=1, description="tokens near the server's vector, and as many others, at a position")
    embedder: Embedder = Field("minilm", description="public word vectors, the same at all parties")


@METHODS.register("pfl_gradfree")
class PFLGradFree(TokenPromptMethod):
    """A prompt of shared tokens, then a client's own, by local search.

    Clients change one token at a time and keep a change that lowers the loss on their batch: first the shared ones
    (half of the budget), then their own. The server takes the mean vector of each shared position and sends it as a sum
    and difference of words, ``e_a + e_b - e_c``.

    Shared, down: ``codes`` ``(n_tokens, 3)`` int16, the indices a, b, c (-1: none), and the vocabulary's tag. Up:
    ``tokens`` ``(n_tokens,)`` int16. Personal: ``tokens`` ``(n_personal,)``, which never leave. Deployed: token ``a``
    of each position and the client's own; a client that never took part has the shared ones alone.

    The composed vector cannot be put to a black box that reads text; it says which tokens to try at its position. A
    client gives up its new tokens if they do worse than before on its validation examples.
    [abs] of the paper: discrete local search, shared and personal prompts, indices by a mechanism after word analogies.
    Inferred: the order of the two searches, three words a code, which vectors, how tokens come out of them. Different
    from the paper: its prompts are vectors, put into the model; the word vectors here are of a public encoder.
    """

    name: ClassVar[str] = "PFL-GradFree"
    paper: ClassVar[str] = "Wang et al. 2024, Findings of NAACL, 2024.findings-naacl.286"
    trains: ClassVar[str] = "token indices: shared (n_tokens,), personal (n_personal,)"
    keeps: ClassVar[str] = "texts or images, its own tokens"
    integer_uploads: ClassVar[frozenset[str]] = frozenset({"tokens"})
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)
    Config: ClassVar[type[MethodConfig]] = PFLGradFreeConfig
    config: PFLGradFreeConfig

    def __init__(self, config: PFLGradFreeConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.vectors: Matrix = word_vectors(self.vocabulary.tokens, config.embedder).numpy()

    def init_shared(self) -> PromptState:
        return coded([BLANK_CODE] * self.config.n_tokens, self.vocabulary)

    def init_personal(self, client: int) -> PromptState:
        return PromptState({"tokens": index_tensor([0] * self.config.n_personal)})

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        return {"tokens": (self.config.n_tokens,)}

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return AnalogyMean(self.vocabulary, self.vectors)

    def step_queries(self, data: ClientData) -> int:
        """Return the queries of the received prompt and a changed one.

        They are counted with the half of the budget that is for shared tokens.
        """
        batch, limit = self.batch_of(data), self.config.batch_size

        def suffices(queries: int) -> bool:
            available = queries - reserve(queries, data, 3, limit)
            return available - available // 2 >= 2 * batch

        return least(2 * batch, suffices)

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        self.check_agreed(broadcast.shared)
        codes, personal_tokens = [indices(row) for row in broadcast.shared["codes"]], indices(personal["tokens"])
        received_tokens = tuple(code[0] for code in codes)

        def losses(prompts: Sequence[Tokens], rows: Tensor, split: Split | None) -> np.ndarray:
            return self.losses(desk, prompts, rows, split)

        def climbed(shared: Tokens, mine: Tokens, positions: range, spare: int) -> Tokens:
            propose = self._propose(codes, positions, desk)
            return climb((*shared, *mine), propose, losses, desk, spare, self.config.neighbours)

        n, length = len(received_tokens), len(received_tokens) + len(personal_tokens)
        spare = reserve(desk.left, data, 3, self.config.batch_size)
        shared = climbed(received_tokens, personal_tokens, range(n), spare + (desk.left - spare) // 2)[:n]
        mine = climbed(shared, personal_tokens, range(n, length), spare)[n:]
        prompts = [(*received_tokens, *personal_tokens), (*shared, *mine), (*received_tokens, *mine)]
        with_both, mine_alone = no_worse(prompts, losses, desk, spare)
        shared = shared if with_both else received_tokens
        mine = mine if with_both or mine_alone else personal_tokens
        return PromptState({"tokens": index_tensor(shared)}), PromptState({"tokens": index_tensor(mine)})

    def _propose(self, codes: Sequence[Sequence[int]], positions: range, desk: ClientOracle) -> Propose:
        """Propose the blank, tokens near the server's vector if there is one, and random ones."""
        all_tokens = range(1, len(self.vocabulary))

        def propose(position: int, tokens: Tokens) -> Sequence[int]:
            if position not in positions:
                return ()
            count = min(self.config.proposals, len(all_tokens))
            random = desk.stream.choice(all_tokens, count, replace=False).tolist()
            near: list[int] = []
            if position < len(codes) and codes[position][0]:
                near = nearest(compose(codes[position], self.vectors), self.vectors, all_tokens, count)
            return (0, *near, *random)

        return propose

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        personal_tokens = indices(personal["tokens"]) if len(personal) else ()
        return self.prompt((*indices(shared["codes"][:, 0]), *personal_tokens))


def coded(codes: Sequence[Code], vocabulary: Vocabulary) -> PromptState:
    """Return the shared state of ``codes``, with the vocabulary's tag."""
    return PromptState({"codes": torch.stack([index_tensor(code) for code in codes]), TAG: vocabulary.tag})


class AnalogyMean(Aggregator):
    """Aggregator: for each position the mean of the clients' word vectors, by samples, as a code.

    Its ``a`` is a token of some client. A position is blank if more than half of the samples say so; else blanks have
    no part in the mean. Updates with indices that are no tokens are left out.
    """

    def __init__(self, vocabulary: Vocabulary, vectors: Matrix) -> None:
        super().__init__(AggregatorConfig())
        self.vocabulary, self.vectors = vocabulary, vectors

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        votes = [(indices(update.shared["tokens"]), update.samples) for update in updates]
        good = [(tokens, samples) for tokens, samples in votes if self.vocabulary.holds(tokens)]
        if not good:
            return shared, server
        positions = range(len(shared["codes"]))
        return coded([self.code([(tokens[p], n) for tokens, n in good]) for p in positions], self.vocabulary), server

    def code(self, votes: Sequence[tuple[int, int]]) -> Code:
        """Return the code of one position's (token, samples)."""
        votes = sorted(votes)
        worded = [(token, samples) for token, samples in votes if token]
        if 2 * sum(samples for _, samples in worded) < sum(samples for _, samples in votes):
            return BLANK_CODE
        words = [token for token, _ in worded]
        weights = np.array([samples for _, samples in worded], dtype=np.float64)
        mean: Vector = weights @ self.vectors[words] / weights.sum()
        return decompose(mean, self.vectors, sorted(set(words)), range(1, len(self.vocabulary)))
