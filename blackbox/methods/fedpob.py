"""FedPOB: a federated linear bandit over a pool of prompts (arXiv 2509.24701)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from promptfed.aggregators.base import Aggregator, AggregatorWrapper
from promptfed.blackbox.base import BlackBoxConfig, BlackBoxMethod, ClientOracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.search.linear_bandit import LinearBandit, packed, unpacked
from promptfed.blackbox.soft.projection import vector
from promptfed.blackbox.text.instructions import bundled
from promptfed.blackbox.tokens.prompt_pool import agreed_prompts, pool_tag, prompt_features
from promptfed.blackbox.tokens.word_vectors import Embedder
from promptfed.errors import TrainingError
from promptfed.method import METHODS, MethodConfig, Shape
from promptfed.privacy.release import EVERYBODY
from promptfed.prompt_state import PromptState
from promptfed.scores import predicted
from promptfed.seeding import numpy_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Update

TAG = "pool"
"""Name of the pool's tag in the shared state. It is sent down, never up."""
MOST_EXPECTED = 64
"""Clients whose pulls a client expects at most."""


class FedPOBConfig(BlackBoxConfig):
    """FedPOB's options. ``batch_size`` examples give one reward."""

    loss: Literal["cross_entropy", "hinge", "accuracy"] = Field(
        "accuracy", description="accuracy: the reward is the share of right answers; else the mean of exp(-loss)"
    )
    batch_size: int = Field(4, ge=1, description="examples of one pull, whose mean is the reward")
    prompts: str | tuple[str, ...] = Field(
        "bundled",
        description="the pool: 'bundled' (the task's own prompts and bundled ones), 'file:PATH' with one a line (read "
        "once, when a run is set up), or a list; the same at all parties",
    )
    embedder: Embedder = Field("minilm", description="public vectors of the prompts; hashing: near if spelt alike")
    dim: int = Field(32, ge=2, description="features of a prompt, to which its vector is projected; one is constant")
    nu: float = Field(0.5, ge=0, description="weight of the deviation in the upper bound: large tries more prompts")
    ridge: float = Field(1.0, gt=0, description="lambda, the weight of theta = 0")
    threshold: float = Field(
        0.3, ge=0, description="D: a client sends when pulls x growth of log det V is more; 0: after each pull"
    )
    spread: bool = Field(
        True, description="clients of a round begin at different prompts: each expects one pull of those before it"
    )
    per_round: int | None = Field(
        None, ge=1, description="clients of a round, where the server learns their mean alone [all of the federation]"
    )


@METHODS.register("fedpob")
class FedPOB(BlackBoxMethod):
    """LinUCB whose sums are those of all clients.

    A prompt p of the pool has public features u(p). With ``V = ridge I + W`` and ``theta = V^-1 b`` a client asks
    ``argmax_p theta u + nu sqrt(u' V^-1 u)`` on ``batch_size`` of its examples, whose mean reward s in 0..1 gives
    ``W += u u'`` and ``b += s u``. It goes on until ``pulls (log det V - log det V at the start) > D``, or its queries
    are used up, and sends its sums; the server adds all clients' (``SumOfChanges``). The prompt with the largest
    ``theta u`` is deployed.

    Shared: ``gram`` ``(dim (dim + 1) / 2,)``, the half of W (``packed``), and ``moment`` ``(dim,)``, b; down also the
    pool's tag. Personal: ``seen`` ``(prompts,)``, how many of its examples each prompt was asked about: no example
    twice with one prompt, for that answer is known.

    Different from the paper, of which we know the formulas and not the code: a client stops by its own growth of V,
    where there one client's growth has all send. With ``spread`` the clients of a round do not all begin with the same
    prompt: client k counts one pull of each of k others, as they would ask one after the other, into its deviations,
    though not into theta (Desautels et al. 2014, GP-BUCB). Features are less the pool's mean, projected to ``dim``
    dimensions, with a constant beside them. No pull is repeated. The preference variant is not here.
    """

    name: ClassVar[str] = "FedPOB"
    paper: ClassVar[str] = "arXiv 2509.24701"
    trains: ClassVar[str] = "sums of a linear bandit: W (dim (dim + 1) / 2,), b (dim,)"
    keeps: ClassVar[str] = "texts or images, which prompts it has tried on them"
    requires: ClassVar[frozenset[str]] = frozenset({"text prompts"})
    aggregators: ClassVar[tuple[str, ...]] = (
        "uniform", "mean", "norm_clip", "median", "trimmed_mean", "geometric_median",
    )  # fmt: skip
    Config: ClassVar[type[MethodConfig]] = FedPOBConfig
    config: FedPOBConfig

    def __init__(self, config: FedPOBConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.prompts = agreed_prompts(config.prompts, (*setup.templates, *bundled(self.oracle, setup.classes)))
        self.features = prompt_features(self.prompts, config.embedder, config.dim, setup.seed)
        self.dim = self.features.shape[1]
        self.tag = pool_tag(self.prompts, config.embedder, self.dim, setup.seed)

    def init_shared(self) -> PromptState:
        half = self.dim * (self.dim + 1) // 2
        return PromptState({"gram": torch.zeros(half), "moment": torch.zeros(self.dim), TAG: self.tag})

    def init_personal(self, client: int) -> PromptState:
        return PromptState({"seen": torch.zeros(len(self.prompts), dtype=torch.int32)})

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        return {name: tuple(sent[name].shape) for name in ("gram", "moment")}

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return SumOfChanges(aggregator, self.config.per_round or len(self.setup.domains) or 1)

    def check_agreed(self, shared: PromptState) -> None:
        """Check that the server's sums are of our pool. Raises TrainingError if they are of another one."""
        if shared[TAG].tolist() != self.tag.tolist():
            raise TrainingError(
                "the server's pool of prompts is not the one made here of the options prompts, embedder and dim: all "
                "parties need the same options, seed, classes and file"
            )

    def bandit(self, shared: PromptState) -> LinearBandit:
        """Return the bandit with the sums of ``shared``."""
        gram, moment = (shared[name].double().numpy() for name in ("gram", "moment"))
        return LinearBandit(self.features, unpacked(gram, self.dim), moment, self.config.ridge, self.config.nu)

    # --------------------------------------------------------------------------------------------- training

    def step_queries(self, data: ClientData) -> int:
        """Return the queries of one pull."""
        return self.batch_of(data)

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        self.check_agreed(broadcast.shared)
        bandit, seen = self.bandit(broadcast.shared), personal["seen"].clone()
        # Every prompt takes the examples in the same order, so that prompts are compared on the same ones.
        order = numpy_stream(self.setup.seed, "examples", self.name, data.client).permutation(len(data.train))
        pulls = (seen / self.batch_of(data)).ceil().sum()
        is_alone = bool(pulls) and np.trace(bandit.gram) < pulls + 0.5  # |u| = 1: the trace counts everybody's pulls
        expected = bandit.expect(data.client % MOST_EXPECTED if self.config.spread and not is_alone else 0)
        start, rewards, right = bandit.log_det(), [], []
        while (seen < len(order)).any():
            arm = bandit.ask((seen < len(order)).numpy(), expected)
            rows = torch.from_numpy(order[seen[arm] :][: self.config.batch_size])
            if len(rows) > desk.left:
                break
            scores, labels = desk.scores([Candidate(self.prompts[arm])], rows)
            rewards.append(self._reward(scores[0], labels))
            right.append((predicted(scores[0]) == labels).double().mean().item())
            bandit.tell(arm, rewards[-1])
            seen[arm] += len(rows)
            if len(rewards) * (bandit.log_det() - start) > self.config.threshold:
                break
        if rewards:
            desk.loss, desk.accuracy = 1 - sum(rewards) / len(rewards), sum(right) / len(right)
        sums = {"gram": vector(packed(bandit.gram)), "moment": vector(bandit.moment)}
        return PromptState(sums), PromptState({"seen": seen})

    def _reward(self, scores: Any, labels: Any) -> float:
        """Return the mean reward of one prompt's ``scores`` ``(n, classes)``, in 0..1."""
        losses = self.sample_losses(scores, labels).double()
        return float((1 - losses if self.config.loss == "accuracy" else (-losses).exp()).mean())

    # ------------------------------------------------------------------------------------------- prediction

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        return Candidate(self.prompts[self.bandit(shared).best()])


class SumOfChanges(AggregatorWrapper):
    """Server step: ``S <- S + m change``, with the change that ``inner`` makes of the round's m changes.

    With the mean that is the sum of all. A round of which the server learns the mean alone counts as ``clients``.
    """

    sees_each = False

    def __init__(self, inner: Aggregator, clients: int) -> None:
        super().__init__(inner)
        self.clients = clients

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        sums = PromptState({name: shared[name] for name in ("gram", "moment")})
        changes = [
            Update(update.client, update.shared - sums, update.samples, update.loss, update.accuracy)
            for update in updates
        ]
        change, server = self.inner.apply(0 * sums, changes, server)
        count = self.clients if updates[0].client == EVERYBODY else len(updates)
        return PromptState({**shared, **(sums + count * change)}), server
