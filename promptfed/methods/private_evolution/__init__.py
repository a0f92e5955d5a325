"""Private evolution: clients vote for synthetic texts near to theirs; the server varies the best (Lin et al. 2024)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.aggregators.base import Aggregator, AggregatorWrapper
from promptfed.blackbox.text.tensors import text_tensor
from promptfed.errors import ConfigError
from promptfed.frozen_model import Kind
from promptfed.method import METHODS, Method, MethodConfig, Shape
from promptfed.prompt_state import PromptState
from promptfed.prompts.synthetic_texts import TEXTS, WEIGHTS, written_texts
from promptfed.prompts.text_states import TextStates
from promptfed.prompts.word_pool import WordPool
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split, Update

VOTES = "votes"


class PrivateEvolutionConfig(MethodConfig):
    """Options of private evolution."""

    texts: int = Field(32, ge=2, description="synthetic texts of each class")
    keep: int = Field(12, ge=1, description="best texts of each class that stay; the others are varied anew")
    length: int = Field(8, ge=1, description="words of a text")
    degree: float = Field(0.35, gt=0, le=1, description="share of a text's words that a variation changes")
    pool: int = Field(300, ge=2, description="words near to a class's description that its first texts are made of")
    threshold: float = Field(
        0.0, ge=0, lt=1, description="share of a class's greatest vote below which a vote counts as noise"
    )


@METHODS.register("private_evolution")
class PrivateEvolution(Method):
    """Synthetic texts that come near to private ones, by votes alone.

    In each round every client is sent N synthetic texts, ``texts`` of each class. Each of its training texts votes for
    the nearest one of its class, by the cosine of the frozen model's states; the client sends the shares ``(N,)`` of
    its votes, which add up to 1. The server keeps the ``keep`` best of each class, and puts variations of them in the
    places of the others. No private text, and no feature of one, leaves a client.

    A class is scored by the cosine to the mean state of its kept texts, weighted by their votes.

    Shared: ``texts``, the synthetic texts as JSON; ``weights`` ``(N,)``, the votes of those that were kept, 0 for new
    ones; ``votes`` ``(N,)``, zeros that a client fills in. Differential privacy of a client is that of one vector of
    norm 1 at most: ``privacy.dp=client`` with ``privacy.clip=1``, and secure sums fit. What comes of the noised sums
    is post-processing, also the texts.

    Different from the paper: no large model writes. Texts are words of the frozen model's vocabulary: the first ones
    lie near to the class's description, variations replace words by near ones, or by words of another kept text. They
    read as lists of words. A client's votes are shares, so that each client counts as much as its examples say only
    without privacy (aggregator ``mean``).
    """

    name: ClassVar[str] = "Private Evolution"
    paper: ClassVar[str] = "Lin et al. 2024, ICLR, arXiv 2305.15560; Xie et al. 2024, arXiv 2403.01749 (texts)"
    trains: ClassVar[str] = "votes for synthetic texts (texts * classes,)"
    keeps: ClassVar[str] = "texts"
    model_kind: ClassVar[Kind] = "language model"
    aggregators: ClassVar[tuple[str, ...]] = ("mean", "uniform")
    classes_apart: ClassVar[bool] = True
    makes_texts: ClassVar[bool] = True
    Config = PrivateEvolutionConfig
    config: PrivateEvolutionConfig

    def __init__(self, config: PrivateEvolutionConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        if config.keep >= config.texts:
            raise ConfigError(
                f"method option 'keep' is {config.keep} of {config.texts} texts, which leaves no place for variations: "
                f"use --set method.keep={config.texts - 1} or less"
            )
        self.model = setup.language_model
        self.states = TextStates(self.model)

    @cached_property
    def pool(self) -> WordPool:
        """The public words."""
        return WordPool(self.model)

    # ------------------------------------------------------------------------------------------------ state

    @property
    def count(self) -> int:
        """N, the synthetic texts of all classes."""
        return self.config.texts * len(self.setup.classes)

    def init_shared(self) -> PromptState:
        """Return the first texts, drawn from words near to each class's description, all of the same weight."""
        stream, texts = torch_stream(self.setup.seed, "private evolution", "start"), []
        for name in self.setup.classes:
            places = self.pool.near_text(self.model.form.description(name), self.config.pool)
            texts += [" ".join(self.pool.draw(places, self.config.length, stream)) for _ in range(self.config.texts)]
        return self.state(texts, torch.ones(self.count))

    def state(self, texts: Sequence[str], weights: Tensor) -> PromptState:
        """Return the shared state of ``texts``, class after class, with the ``weights`` ``(N,)`` of their votes."""
        content = text_tensor(json.dumps(list(texts), ensure_ascii=False))
        return PromptState({TEXTS: content, WEIGHTS: weights.float(), VOTES: torch.zeros(self.count)})

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        return {VOTES: (self.count,)}

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return Evolution(aggregator, self)

    # --------------------------------------------------------------------------------------------- training

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        with self.setup.model.account(round=broadcast.round, client=data.client):
            votes = self.votes(broadcast.shared, data.train)
            scores = self.logits(broadcast.shared, personal, self.setup.classes, data.train)
        labels = data.train.labels
        loss = F.cross_entropy(scores.cpu(), labels).item()
        accuracy = (scores.cpu().argmax(1) == labels).float().mean().item()
        return Update(data.client, PromptState({VOTES: votes}), len(labels), loss, accuracy), personal

    @torch.no_grad()
    def votes(self, shared: PromptState, split: Split) -> Tensor:
        """Return the share of a split's texts ``(N,)`` for which each synthetic text of their class is the nearest."""
        cosines = self.states.unit(split.items) @ self.states.unit_of_texts(written_texts(shared)).T
        of_class = torch.arange(self.count, device=cosines.device) // self.config.texts
        other = of_class[None, :] != split.labels.to(cosines.device)[:, None]
        nearest = cosines.masked_fill(other, -torch.inf).argmax(1).cpu()
        return nearest.bincount(minlength=self.count).float() / max(1, len(split))

    # ------------------------------------------------------------------------------------------- prediction

    @torch.no_grad()
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        texts = self.states.unit_of_texts(written_texts(shared))
        weights = shared[WEIGHTS].to(texts)[:, None]
        means = F.normalize((weights * texts).reshape(len(self.setup.classes), self.config.texts, -1).sum(1), dim=-1)
        return self.states.class_scores(dict(zip(self.setup.classes, means, strict=True)), classes, split.items)


class Evolution(AggregatorWrapper):
    """Merge votes as ``inner`` does; then the best texts of each class stay, and variations of them fill the rest."""

    sees_each: ClassVar[bool] = False

    def __init__(self, inner: Aggregator, method: PrivateEvolution) -> None:
        super().__init__(inner)
        self.method = method

    def init(self, shared: PromptState) -> PromptState:
        return PromptState({**self.inner.init(shared), "evolution.round": torch.zeros(1, dtype=torch.int32)})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        round = int(server["evolution.round"]) + 1
        memory = PromptState({name: tensor for name, tensor in server.items() if name != "evolution.round"})
        merged, memory = self.inner.apply(shared, updates, memory)
        state = self.next(shared, merged[VOTES], round)
        return state, PromptState({**memory, "evolution.round": torch.tensor([round], dtype=torch.int32)})

    def next(self, shared: PromptState, votes: Tensor, round: int) -> PromptState:
        """Return the state after a round's ``votes`` ``(N,)``, which may be noised and below 0."""
        method, config = self.method, self.method.config
        texts, weights = written_texts(shared), shared[WEIGHTS]
        stream = torch_stream(method.setup.seed, "private evolution", round)
        new_texts, new_weights = [], []
        for start in range(0, method.count, config.texts):
            places = slice(start, start + config.texts)
            mine = votes[places].clamp(min=0)
            mine = mine.where(mine > config.threshold * mine.max(), 0.0)
            if not mine.any():  # nobody voted: what was kept before stays
                mine = weights[places]
            best = mine.sort(descending=True, stable=True).indices[: config.keep]
            best = best[mine[best] > 0]
            survivors = [texts[start + int(k)] for k in best]
            children = [self._variation(survivors, mine[best], stream) for _ in range(config.texts - len(survivors))]
            new_texts += [*survivors, *children]
            new_weights += [*mine[best].tolist(), *[0.0] * len(children)]
        return method.state(new_texts, torch.tensor(new_weights))

    def _variation(self, texts: Sequence[str], weights: Tensor, stream: torch.Generator) -> str:
        """Return one of ``texts`` with some words replaced by near ones, or by words of another of them."""
        config, pool = self.method.config, self.method.pool
        parents = torch.multinomial(weights.double(), 2, replacement=True, generator=stream)
        words, others = (texts[int(k)].split(" ") for k in parents)
        draws = torch.rand(len(words), 2, generator=stream).tolist()
        for place, (change, crossing) in enumerate(draws):
            if change >= config.degree:
                continue
            near = pool.near_word(words[place])
            if crossing < 0.5 or not near:
                words[place] = others[int(torch.randint(len(others), (1,), generator=stream))]
            else:
                words[place] = pool.draw(near, 1, stream)[0]
        return " ".join(words)
