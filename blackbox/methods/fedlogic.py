"""FedLogic: posteriors over a set of prompts, one a client, with a shared prior (Xing et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import Aggregator
from promptfed.blackbox.base import BlackBoxConfig, BlackBoxMethod, ClientOracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.text.instructions import bundled
from promptfed.blackbox.tokens.prompt_pool import agreed_prompts
from promptfed.errors import ConfigError
from promptfed.method import METHODS, MethodConfig
from promptfed.prompt_state import PromptState
from promptfed.scores import as_if_uniform, is_answered, predicted
from promptfed.seeding import numpy_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split, Update

SMALLEST = 1e-12
"""Least share of a prompt that is not pruned, so that its logarithm is finite."""


class FedLogicConfig(BlackBoxConfig):
    """FedLogic's options. ``loss`` cross_entropy makes the evidence a likelihood."""

    prompts: str | tuple[str, ...] | None = Field(
        None,
        description="the set that is chosen from, a list or 'file:PATH' with one a line; by default the task's own and "
        "bundled ones",
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
    """Variational EM over K prompts.

    E step, at client i: the posterior ``q_i`` that minimises ``E_q[-l_i] / T + lambda KL(q || pi) + (1 - lambda)
    KL(q || uniform)``, which is ``q_i ~ exp(l_i / T) pi^lambda`` (``posterior``). M step, at the server: ``pi``, the
    (weighted) mean of the ``q_i``, which minimises ``sum w_i KL(q_i || pi)``, or with merge "product" their geometric
    mean, which minimises ``sum w_i KL(pi || q_i)``.

    ``l_i`` ``(K,)``: log-likelihood of the client's training examples, estimated from those scored so far; every
    example is scored with each prompt once, in a fixed order, so after all of them later rounds need no queries.

    Shared: ``posterior`` ``(K,)``. Personal: ``loss`` and ``right`` ``(K,)``, sums over the ``seen`` ``(K,)`` examples.
    A client deploys the posterior of its own evidence and the last ``pi``; a client that never took part has ``pi``.

    The paper's search is over logic rules that the language model writes, and its code is not public: the prompt set,
    lambda's place between the two divergences and pruning as the search space's shrinking are our reading of it. With
    lambda = T = 1 it is plain EM for the mixture in which each client has one right prompt.
    """

    name: ClassVar[str] = "FedLogic"
    paper: ClassVar[str] = "Xing et al. 2023, arXiv 2308.15324"
    trains: ClassVar[str] = "posterior over a set of prompts (K,)"
    keeps: ClassVar[str] = "texts or images, the prompts' likelihoods (K,)"
    requires: ClassVar[frozenset[str]] = frozenset({"text prompts"})
    for_sums: ClassVar[Mapping[str, str]] = {"merge": "mean"}
    aggregators: ClassVar[tuple[str, ...]] = ("mean", "uniform")
    Config: ClassVar[type[MethodConfig]] = FedLogicConfig
    config: FedLogicConfig

    def __init__(self, config: FedLogicConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.prompts = agreed_prompts(config.prompts, (*setup.templates, *bundled(self.oracle, setup.classes)))
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
        """Return the queries of all prompts on one example."""
        return len(self.prompts)

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        shared = broadcast.shared["posterior"]
        alive = shared.nonzero().flatten()
        candidates = [Candidate(self.prompts[k]) for k in alive.tolist()]
        loss, right, counts = (personal[name].clone() for name in ("loss", "right", "seen"))
        examples = len(data.train)
        order = numpy_stream(self.setup.seed, "examples", self.name, data.client).permutation(examples)
        # Prompts are only ever removed, so the remaining ones were all scored on the same examples.
        start = int(counts[alive].min())
        while start < examples and len(alive) <= desk.left:
            count = min(self.config.batch_size, examples - start, desk.left // len(alive))
            scores, labels = desk.scores(candidates, torch.from_numpy(order[start : start + count]))
            losses = self.sample_losses(scores.flatten(0, 1), labels.repeat(len(alive)))
            loss[alive] += losses.reshape(len(alive), -1).sum(1)
            right[alive] += (predicted(scores) == labels).float().sum(1)
            counts[alive] += count
            start += count
        evidence = PromptState({"loss": loss, "right": right, "seen": counts})
        weights = self._client_posterior(shared, evidence, examples)
        if start:
            best = int(weights.argmax())
            desk.loss, desk.accuracy = (float(total[best] / counts[best]) for total in (loss, right))
        # Prediction needs only the number of training examples.
        return PromptState({"posterior": weights}), PromptState({**evidence, "examples": torch.tensor([examples])})

    def _client_posterior(self, shared: Tensor, personal: PromptState, examples: int) -> Tensor:
        """Return a client's posterior ``(K,)`` by its evidence; the global one without evidence."""
        counts = personal["seen"]
        evidence = -examples * personal["loss"] / counts.clamp(min=1) / self.config.temperature
        return posterior(evidence, shared, self.config.pull) if counts.any() else shared

    # ------------------------------------------------------------------------------------------- prediction

    def chosen(self, shared: PromptState, personal: PromptState) -> Tensor:
        """Return the posterior ``(K,)`` that decides with these states."""
        if "examples" not in personal:
            return shared["posterior"]
        return self._client_posterior(shared["posterior"], personal, int(personal["examples"]))

    @property
    def sends_one_prompt(self) -> bool:
        return self.config.deploy == "best"

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        return Candidate(self.prompts[int(self.chosen(shared, personal).argmax())])

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        if self.config.deploy == "best":
            return super().logits(shared, personal, classes, split)
        weights = self.chosen(shared, personal)
        active = (weights > 1e-3).nonzero().flatten()
        prompts = [Candidate(self.prompts[k]) for k in active.tolist()]
        scores = self.scored(prompts, classes, split)
        shares = as_if_uniform(scores).log_softmax(-1)
        log_mixture = (shares + weights[active].log()[:, None, None]).logsumexp(0)
        return log_mixture.where(is_answered(scores).any(0)[:, None], torch.nan)


class PosteriorMerge(Aggregator):
    """M step by ``inner``'s weights, then pruning.

    Each client's vector is first made a distribution over the remaining prompts, so that no client exceeds its weight.
    With merge "mean" the mean of the vectors is enough for it, also under noise.
    """

    def __init__(self, inner: Aggregator, config: FedLogicConfig) -> None:
        super().__init__(inner.config)
        self.inner, self.options = inner, config
        self.needs = inner.needs if config.merge == "mean" else "each"

    def init(self, shared: PromptState) -> PromptState:
        return self.inner.init(shared)

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        alive = shared["posterior"] > 0
        distributions = []
        for update in updates:
            share = proper(update.shared["posterior"], alive)
            value = share.log() if self.options.merge == "product" else share
            state = PromptState({"posterior": torch.where(alive, value, torch.zeros(()))})
            distributions.append(Update(update.client, state, update.samples, update.loss, update.accuracy))
        new_shared, server = self.inner.apply(shared, distributions, server)
        value = new_shared["posterior"]
        share = torch.where(alive, (value - value[alive].max()).exp() if self.options.merge == "product" else value, 0)
        share = torch.where(share >= self.options.prune * share.max(), share, torch.zeros(()))
        return PromptState({"posterior": share / share.sum()}), server


def posterior(evidence: Tensor, prior: Tensor, pull: float) -> Tensor:
    """Return ``q ~ exp(evidence) prior^pull`` over the prompts with a prior above 0; ``(K,)`` each, in float64 inside.

    It minimises ``sum_k q_k (log q_k - evidence_k - pull log prior_k)``: set the derivative by q_k, with a multiplier
    for ``sum q = 1``, to zero. That is ``E_q[-evidence] + pull KL(q || prior) + (1 - pull) KL(q || uniform)`` up to a
    constant.
    """
    logits = torch.where(prior > 0, evidence.double() + pull * prior.double().log(), -torch.inf)
    return proper(logits.softmax(0), prior > 0).float()


def proper(share: Tensor, alive: Tensor) -> Tensor:
    """Return ``share`` ``(K,)`` as a distribution over the prompts that are ``alive``.

    None of these gets less than ``SMALLEST``.
    """
    positive = torch.where(alive, share.clamp(min=SMALLEST), torch.zeros((), dtype=share.dtype))
    return positive / positive.sum()
