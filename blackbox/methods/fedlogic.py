"""FedLogic: which of a set of prompts suits whom, as posteriors that meet on the server (Xing et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import Aggregator
from promptfed.blackbox.base import BlackBoxConfig, BlackBoxMethod, ClientOracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.text.instructions import bundled
from promptfed.errors import ConfigError
from promptfed.method import METHODS, MethodConfig
from promptfed.prompt_state import PromptState
from promptfed.scores import as_if_uniform, is_answered, predicted
from promptfed.seeding import numpy_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split, Update

SMALLEST = 1e-12
"""A share that is kept for a prompt that is not pruned, so that its logarithm is a number."""


class FedLogicConfig(BlackBoxConfig):
    """FedLogic's options. ``loss`` cross_entropy makes the evidence a likelihood."""

    prompts: tuple[str, ...] | None = Field(
        None, min_length=2, description="the set that is chosen from; by default the task's own and bundled ones"
    )
    temperature: float = Field(1.0, gt=0, description="of the evidence: large trusts the client's own examples less")
    pull: float = Field(1.0, ge=0, le=1, description="lambda, the weight of the KL divergence to the global posterior")
    merge: Literal["mean", "product"] = Field("mean", description="how posteriors meet: arithmetic or geometric mean")
    prune: float = Field(
        0.01, ge=0, lt=1, description="prompts with less than this share of the best one's posterior are given up"
    )
    deploy: Literal["best", "mixture"] = Field(
        "best", description="one prompt, or the predictions of all, weighted by the posterior (as many queries)"
    )


@METHODS.register("fedlogic")
class FedLogic(BlackBoxMethod):
    """Variational EM over K prompts. E step, at client i: the posterior ``q_i`` that minimises ``E_q[-l_i] / T
    + lambda KL(q || pi) + (1 - lambda) KL(q || uniform)``, which is ``q_i ~ exp(l_i / T) pi^lambda`` (``posterior``).
    M step, at the server: ``pi``, the (weighted) mean of the ``q_i``, which minimises ``sum w_i KL(q_i || pi)``, or
    with merge "product" their geometric mean, which minimises ``sum w_i KL(pi || q_i)``.

    ``l_i`` ``(K,)``: log-likelihood of the client's training examples, estimated from those scored so far; every
    example is scored with each prompt once, in a fixed order, so when all are, later rounds ask for nothing.

    Shared: ``posterior`` ``(K,)``. Personal: ``loss`` and ``right`` ``(K,)``, sums over the ``seen`` ``(K,)`` examples.
    A client deploys the posterior of its own evidence and the last ``pi``; somebody who never took part has ``pi``.

    The paper's search is over logic rules that the language model writes, and its code is not public: the prompt set,
    lambda's place between the two divergences and pruning as the search space's shrinking are our reading of it. With
    lambda = T = 1 it is plain EM for the mixture in which each client has one right prompt.
    """

    name: ClassVar[str] = "FedLogic"
    paper: ClassVar[str] = "Xing et al. 2023, arXiv 2308.15324"
    trains: ClassVar[str] = "posterior over a set of prompts (K,)"
    keeps: ClassVar[str] = "texts or images, the prompts' likelihoods (K,)"
    requires: ClassVar[frozenset[str]] = frozenset({"text prompts"})
    aggregators: ClassVar[tuple[str, ...]] = ("mean", "uniform")
    Config: ClassVar[type[MethodConfig]] = FedLogicConfig
    config: FedLogicConfig

    def __init__(self, config: FedLogicConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        usual = (*setup.templates, *bundled(self.oracle, setup.classes))
        self.prompts = tuple(dict.fromkeys(usual if config.prompts is None else config.prompts))
        if config.queries < len(self.prompts):
            raise ConfigError(
                f"method option 'queries' is {config.queries}, but {self.name} compares {len(self.prompts)} prompts on "
                "the same examples: allow as many queries, or name fewer prompts (--set method.prompts)"
            )

    def init_shared(self) -> PromptState:
        return PromptState({"posterior": torch.full((len(self.prompts),), 1 / len(self.prompts))})

    def init_personal(self, client: int) -> PromptState:
        count = len(self.prompts)
        return PromptState(
            {"loss": torch.zeros(count), "right": torch.zeros(count), "seen": torch.zeros(count, dtype=torch.int32)}
        )

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return PosteriorMerge(aggregator, self.config)

    # --------------------------------------------------------------------------------------------- training

    def step_queries(self, data: ClientData) -> int:
        """All prompts on one example."""
        return len(self.prompts)

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        shared = broadcast.shared["posterior"]
        alive = shared.nonzero().flatten()
        candidates = [Candidate(self.prompts[k]) for k in alive.tolist()]
        loss, right, seen = (personal[name].clone() for name in ("loss", "right", "seen"))
        examples = len(data.train)
        order = numpy_stream(self.setup.seed, "examples", self.name, data.client).permutation(examples)
        # Prompts are only ever given up, so those that are left were all scored on the same examples.
        done = int(seen[alive].min())
        while done < examples and len(alive) <= desk.left:
            count = min(self.config.batch_size, examples - done, desk.left // len(alive))
            scores, labels = desk.scores(candidates, torch.from_numpy(order[done : done + count]))
            losses = self.sample_losses(scores.flatten(0, 1), labels.repeat(len(alive)))
            loss[alive] += losses.reshape(len(alive), -1).sum(1)
            right[alive] += (predicted(scores) == labels).float().sum(1)
            seen[alive] += count
            done += count
        kept = PromptState({"loss": loss, "right": right, "seen": seen})
        own = self._own(shared, kept, examples)
        if done:
            best = int(own.argmax())
            desk.loss, desk.accuracy = (float(total[best] / seen[best]) for total in (loss, right))
        # What prediction needs of the training data is how many there are.
        return PromptState({"posterior": own}), PromptState({**kept, "examples": torch.tensor([examples])})

    def _own(self, shared: Tensor, personal: PromptState, examples: int) -> Tensor:
        """A client's posterior ``(K,)`` by what it has seen; the global one before it has seen anything."""
        seen = personal["seen"]
        evidence = -examples * personal["loss"] / seen.clamp(min=1) / self.config.temperature
        return posterior(evidence, shared, self.config.pull) if seen.any() else shared

    # ------------------------------------------------------------------------------------------- prediction

    def chosen(self, shared: PromptState, personal: PromptState) -> Tensor:
        """The posterior ``(K,)`` that decides with these states."""
        if "examples" not in personal:
            return shared["posterior"]
        return self._own(shared["posterior"], personal, int(personal["examples"]))

    @property
    def sends_one_prompt(self) -> bool:
        return self.config.deploy == "best"

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        return Candidate(self.prompts[int(self.chosen(shared, personal).argmax())])

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        if self.config.deploy == "best":
            return super().logits(shared, personal, classes, split)
        weights = self.chosen(shared, personal)
        used = (weights > 1e-3).nonzero().flatten()
        prompts = [Candidate(self.prompts[k]) for k in used.tolist()]
        scores = self.scored(prompts, classes, split)
        shares = as_if_uniform(scores).log_softmax(-1)
        mixed = (shares + weights[used].log()[:, None, None]).logsumexp(0)
        return mixed.where(is_answered(scores).any(0)[:, None], torch.nan)


class PosteriorMerge(Aggregator):
    """The M step by ``inner``'s weights, then pruning. What clients send is made a distribution over the prompts that
    are left first, so nobody counts for more than its weight."""

    def __init__(self, inner: Aggregator, config: FedLogicConfig) -> None:
        super().__init__(inner.config)
        self.inner, self.options = inner, config

    def init(self, shared: PromptState) -> PromptState:
        return self.inner.init(shared)

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        alive = shared["posterior"] > 0
        sent = []
        for update in updates:
            share = proper(update.shared["posterior"], alive)
            value = share.log() if self.options.merge == "product" else share
            given = PromptState({"posterior": torch.where(alive, value, torch.zeros(()))})
            sent.append(Update(update.client, given, update.samples, update.loss, update.accuracy))
        merged, server = self.inner.apply(shared, sent, server)
        value = merged["posterior"]
        share = torch.where(alive, (value - value[alive].max()).exp() if self.options.merge == "product" else value, 0)
        share = torch.where(share >= self.options.prune * share.max(), share, torch.zeros(()))
        return PromptState({"posterior": share / share.sum()}), server


def posterior(evidence: Tensor, prior: Tensor, pull: float) -> Tensor:
    """``q ~ exp(evidence) prior^pull`` over the prompts with a prior above 0; ``(K,)`` each, in float64 inside.

    It minimises ``sum_k q_k (log q_k - evidence_k - pull log prior_k)``: set the derivative by q_k, with a multiplier
    for ``sum q = 1``, to zero. That is ``E_q[-evidence] + pull KL(q || prior) + (1 - pull) KL(q || uniform)`` up to a
    constant.
    """
    logits = torch.where(prior > 0, evidence.double() + pull * prior.double().log(), -torch.inf)
    return proper(logits.softmax(0), prior > 0).float()


def proper(share: Tensor, alive: Tensor) -> Tensor:
    """``share`` ``(K,)`` as a distribution over the prompts that are ``alive``, none of which gets less than
    ``SMALLEST``."""
    kept = torch.where(alive, share.clamp(min=SMALLEST), torch.zeros((), dtype=share.dtype))
    return kept / kept.sum()
