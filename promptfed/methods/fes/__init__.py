"""FeS: federated few-shot learning from texts that clients label themselves, around any method on language models."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from promptfed.aggregators.base import Aggregator
from promptfed.errors import ConfigError
from promptfed.examples.base import Item
from promptfed.inserts.base import InsertKind
from promptfed.language_models.loading import load_language_model
from promptfed.method import METHODS, Method, MethodConfig, Shape, TrainingJob
from promptfed.methods.fes.curriculum import confident, last_labelling
from promptfed.methods.fes.neighbours import by_nearness
from promptfed.methods.fes.options import FeSConfig, inner_method
from promptfed.methods.fes.pseudo_labels import PseudoLabels, remembered, right_among, with_pseudo_labels
from promptfed.methods.fes.vote_k import NEIGHBOURS, representatives
from promptfed.processors.client_state import prompt_of
from promptfed.prompt_state import PromptState
from promptfed.prompt_template import PromptTemplate
from promptfed.prompts.language_method import LanguageMethod
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split, Update

LOG = logging.getLogger(__name__)
SENTENCES = "lm:minilm"
"""The encoder whose embeddings say which texts are alike."""


@METHODS.register("fes")
class FeS(LanguageMethod):
    """Clients with few labels guess those of their other texts, and ``inner`` trains on both.

    At the start of rounds 1 + every, 1 + 2 every, ... a client asks the prompt that it was sent for the classes of its
    pool: those of its unlabelled texts that vote-k picks as standing for many, by MiniLM's embeddings. The most
    confident get a pseudo-label, more of them each time (curriculum), and take the place of the earlier ones. With
    ``labels=soft`` all probabilities are kept, and the loss is the cross-entropy to them: LP-FL (Jiang et al. 2023,
    arXiv 2307.13896). A known label is a certain distribution.

    Shared: what ``inner`` shares. Personal: what ``inner`` keeps; places and pseudo-labels of texts are remembered at
    the client for its training and never sent.

    Different from the paper: ``inner`` decides what is trained; the paper trains the biases of the whole model, which
    is no insert. No class gets more guesses than its share (``balanced``). Who trains also labels; the paper draws
    clients for that apart. Round 1 trains on labels alone. A client counts with all texts that it trains on; the code
    weighs all alike (--aggregator uniform).
    """

    name: ClassVar[str] = "FeS"
    paper: ClassVar[str] = "Cai et al. 2023, arXiv 2212.05974; soft labels: Jiang et al. 2023, arXiv 2307.13896"
    trains: ClassVar[str] = "what the method inside trains"
    keeps: ClassVar[str] = "texts, pseudo-labels"
    remembers: ClassVar[bool] = True
    Config: ClassVar[type[MethodConfig]] = FeSConfig

    def __init__(self, config: FeSConfig, setup: Setup) -> None:
        Method.__init__(self, config, setup)
        self.fes = config
        self.inner = inner_method(config.inner)(config.inner_config(), setup)
        if config.labels == "soft" and type(self.inner).objective is not LanguageMethod.objective:
            raise ConfigError(
                f"labels=soft needs a loss that is cross-entropy alone, and that of {self.inner.name} is another: use "
                "--set method.labels=hard"
            )
        self.model, self.kind, self.head = self.inner.model, self.inner.kind, self.inner.head
        self._pools: dict[tuple[str, ...], list[int]] = {}
        self._sentences = self.model if self.model.name == SENTENCES else None

    # --------------------------------------------------------------------------------------------- training

    def train_many(self, jobs: Sequence[TrainingJob]) -> list[tuple[Update, PromptState]]:
        """Have ``inner`` train on what clients know and guess."""
        rich, guesses = [], []
        for broadcast, data, personal in jobs:
            plain, pseudo = prompt_of(personal), self.pseudo_labels(broadcast, data, personal)
            rich.append((broadcast, with_pseudo_labels(data, pseudo, len(self.setup.classes)), plain))
            guesses.append(pseudo)
        return [
            (update, PromptState({**personal, **pseudo.tensors()}))
            for (update, personal), pseudo in zip(self.inner.train_many(rich), guesses, strict=True)
        ]

    def pseudo_labels(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> PseudoLabels:
        """Return what a client has guessed by now: what it remembers, or new guesses if these are due."""
        due, earlier = last_labelling(broadcast.round, self.fes.every), remembered(personal)
        if earlier is not None and earlier.round >= due:
            return earlier
        pool = self.pool(data) if due > 1 else []
        rows = torch.tensor(pool, dtype=torch.int64)
        if not pool:
            return PseudoLabels(broadcast.round, rows, rows)
        texts = Split(tuple(data.unlabelled.items[row] for row in pool), data.unlabelled.labels[rows])
        scores = self.inner.logits(broadcast.shared, prompt_of(personal), self.setup.classes, texts)
        top, labels = (probabilities := scores.float().softmax(-1).cpu()).max(-1)
        count = self.fes.count(len(pool), broadcast.round)
        most = math.ceil(count / len(self.setup.classes)) if self.fes.balanced else None
        places = confident(top.tolist(), labels.tolist(), count, self.fes.threshold, most)
        choice = torch.tensor(places, dtype=torch.int64)
        targets = probabilities[choice] if self.fes.labels == "soft" else None
        pseudo = PseudoLabels(broadcast.round, rows[choice], labels[choice], targets)
        _log(data, pseudo, len(pool))
        return pseudo

    def pool(self, data: ClientData) -> list[int]:
        """Return the places of those unlabelled texts that a client labels at all; the same in every round."""
        items = data.unlabelled.items
        count = self.fes.pool_count(len(items))
        if self.fes.filter == "none" or count >= len(items):
            return list(range(len(items)))
        key = tuple(item.content_id() for item in (*data.train.items, *items))
        if key not in self._pools:
            embeddings = self._embeddings(items)
            if self.fes.filter == "vote_k":
                self._pools[key] = representatives(embeddings, count, NEIGHBOURS)
            else:
                self._pools[key] = by_nearness(embeddings, self._embeddings(data.train.items))[:count]
        return self._pools[key]

    def _embeddings(self, items: Sequence[Item]) -> Tensor:
        """Return MiniLM's embeddings ``(items, 384)`` of texts."""
        if self._sentences is None:
            self._sentences = load_language_model(SENTENCES, PromptTemplate())
        with torch.no_grad():
            return self._sentences.states(items).cpu()

    def check_feasible(self, clients: Sequence[ClientData]) -> None:
        super().check_feasible(clients)
        if not any(data.unlabelled.total for data in clients):
            raise ConfigError(
                "no client holds an unlabelled text, so fes has nothing to label: --set task.labels=64 keeps so many "
                f"labels in all, or use --method {self.fes.inner}"
            )
        pools = [self.fes.pool_count(data.unlabelled.total) for data in clients]
        if not any(self.fes.count(pool, self.rounds) for pool in pools):
            raise ConfigError(
                f"fes labels no text in {self.rounds} rounds with method.every={self.fes.every} and pools of up to "
                f"{max(pools)} texts: use more --rounds, a smaller every or a larger --set method.k"
            )

    # --------------------------------------------------------------------------------- what inner decides

    @property
    def rounds(self) -> int:
        return self.inner.rounds

    def make_kind(self) -> InsertKind:
        return self.inner.kind

    def start(self, *purpose: str | int) -> PromptState:
        return self.inner.start(*purpose)

    def init_shared(self) -> PromptState:
        return self.inner.init_shared()

    def init_personal(self, client: int) -> PromptState:
        return self.inner.init_personal(client)

    def values(self, shared: PromptState, personal: PromptState) -> PromptState:
        return self.inner.values(shared, prompt_of(personal))

    def trained_names(self, round: int, values: PromptState) -> Collection[str]:
        return self.inner.trained_names(round, values)

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        return self.inner.uploads(client, sent)

    def participants(self, round: int, drawn: Sequence[int], clients: Sequence[int]) -> Sequence[int]:
        return self.inner.participants(round, drawn, clients)

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return self.inner.server_side(aggregator)

    def data_notes(self, clients: Sequence[ClientData]) -> tuple[str, ...]:
        return self.inner.data_notes(clients)

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        return self.inner.logits(shared, prompt_of(personal), classes, split)

    def one_insert(self, shared: PromptState, personal: PromptState) -> PromptState | None:
        return self.inner.one_insert(shared, prompt_of(personal))

    def blend(self, shared: PromptState, personal: PromptState, alpha: float) -> PromptState | None:
        return self.inner.blend(shared, prompt_of(personal), alpha)


def _log(data: ClientData, pseudo: PseudoLabels, pool: int) -> None:
    """Say in the run's log how many labels a client has guessed and, where somebody knows, how many are right."""
    right = right_among(data, pseudo)
    words = "" if right is None else f", {right} of them right"
    LOG.info("client %d, round %d: %d of %d texts labelled%s", data.client, pseudo.round, len(pseudo.rows), pool, words)
