"""FedDTPT: words that the black box proposes, accepted by accuracy, merged by clustering (Wu et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import Aggregator
from promptfed.blackbox.base import BlackBoxConfig, BlackBoxMethod, ClientOracle, least
from promptfed.blackbox.methods.feddtpt.clustering import TokenClustering
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.search.base import Tokens
from promptfed.blackbox.text.tensors import text_of, text_tensor
from promptfed.blackbox.text.word_list import clean, packed, unpacked
from promptfed.blackbox.tokens.hill_climbing import climb, no_worse, reserve
from promptfed.blackbox.tokens.word_vectors import Embedder
from promptfed.method import METHODS, MethodConfig, Shape
from promptfed.prompt_state import PromptState
from promptfed.types import Broadcast, ClientData, Split

TIE = 1e-3
"""Weight of the probability that is missing from the true class, beside the share of errors: it decides between
prompts with the same accuracy and never outweighs an example of a batch of less than 1000."""


class FedDTPTConfig(BlackBoxConfig):
    """FedDTPT's options."""

    loss: Literal["cross_entropy", "hinge", "accuracy"] = Field(
        "accuracy", description="what accepts a word; accuracy: fewer errors, between equals more probability"
    )
    n_tokens: int = Field(5, ge=1, le=256, description="most words of the prompt")
    proposals: int = Field(8, ge=1, description="words that the black box is asked for at a position")
    neighbours: int = Field(4, ge=1, description="changed prompts that are scored at a time, the best one kept")
    embedder: Embedder = Field("minilm", description="the server's public word vectors")
    min_samples: int = Field(2, ge=1, description="DBSCAN: words within reach, itself included, of a cluster's core")
    temperature: float = Field(0.1, gt=0, description="of the server's attention between words")


@METHODS.register("feddtpt")
class FedDTPT(BlackBoxMethod):
    """A client changes one word of the prompt at a time; the server clusters the words of all clients by meaning.

    The black box proposes words for a place, and a changed prompt with a better accuracy on the client's batch is kept.
    The server makes the next prompt of the clusters (``TokenClustering``).

    Shared: ``words``, the UTF-8 bytes of one word a line, at most ``n_tokens``; both ways. Personal: nothing.

    A request for proposals holds the prompt and a class word, never a client's text, and costs one query. A client
    sends the received words if its own do worse on its validation examples. All beyond "proposals from a masked
    language model, accepted by accuracy" is inferred: the paper's code was not at hand.
    Different from the paper: words travel as text, since black boxes differ in their tokens; the first prompt is empty.
    """

    name: ClassVar[str] = "FedDTPT"
    paper: ClassVar[str] = "Wu et al. 2024, arXiv 2411.00985"
    trains: ClassVar[str] = "words of a text prompt (n_tokens,)"
    requires: ClassVar[frozenset[str]] = frozenset({"text prompts", "token proposals"})
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)
    Config: ClassVar[type[MethodConfig]] = FedDTPTConfig
    config: FedDTPTConfig

    def init_shared(self) -> PromptState:
        return PromptState({"words": text_tensor("")})

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        return {"words": (None,)}

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        config = self.config
        return TokenClustering(config.n_tokens, config.embedder, config.min_samples, config.temperature)

    def step_queries(self, data: ClientData) -> int:
        """Return the queries of the received words, a proposal and a changed prompt.

        The queries that are reserved to compare the two come on top.
        """
        batch, limit = self.batch_of(data), self.config.batch_size
        return least(2 * batch + 1, lambda queries: queries - reserve(queries, data, 2, limit) >= 2 * batch + 1)

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        lexicon = _Lexicon()
        words = unpacked(text_of(broadcast.shared["words"]), self.config.n_tokens)
        start = lexicon.tokens([*words, *[""] * (self.config.n_tokens - len(words))])

        def losses(prompts: Sequence[Tokens], rows: Tensor, split: Split | None) -> np.ndarray:
            return desk.losses([Candidate(lexicon.text(tokens)) for tokens in prompts], rows, split=split)

        def propose(position: int, tokens: Tokens) -> Sequence[int]:
            desk.spend(1)
            label = str(desk.stream.choice(self.setup.classes))
            prefix, suffix = lexicon.text(tokens[:position]), lexicon.text(tokens[position + 1 :])
            proposed = self.oracle.propose(
                prefix, f"{suffix} {self.oracle.form.word(label)}".strip(), self.config.proposals
            )
            return lexicon.tokens(["", *filter(None, map(clean, proposed))])

        spare = reserve(desk.left, data, 2, self.config.batch_size)
        best = climb(start, propose, losses, desk, spare, self.config.neighbours)
        if best != start and not no_worse([start, best], losses, desk, spare)[0]:
            best = start
        return PromptState({"words": text_tensor(packed(lexicon.words(best)))}), personal

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        return Candidate(" ".join(unpacked(text_of(shared["words"]), self.config.n_tokens)))

    def sample_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        losses = super().sample_losses(scores, labels)
        if self.config.loss != "accuracy":
            return losses
        error = 1 - scores.softmax(-1).gather(1, labels[:, None]).squeeze(1)
        return losses + TIE * torch.nan_to_num(error, nan=1.0)


class _Lexicon:
    """Numbers of the words that one client meets in one round; 0 is no word."""

    def __init__(self) -> None:
        self._numbers = {"": 0}

    def tokens(self, words: Sequence[str]) -> Tokens:
        return tuple(self._numbers.setdefault(word, len(self._numbers)) for word in words)

    def words(self, tokens: Tokens) -> list[str]:
        words = list(self._numbers)
        return [words[number] for number in tokens if number]

    def text(self, tokens: Tokens) -> str:
        return " ".join(self.words(tokens))
