"""What every black-box method is: a method whose clients ask an oracle, within an allowance of queries."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import count
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.errors import ConfigError, TrainingError
from promptfed.kept_text import kept_of
from promptfed.method import Method, MethodConfig
from promptfed.printable import LONGEST, printable
from promptfed.prompt_state import PromptState
from promptfed.scores import as_if_uniform, is_answered, predicted
from promptfed.seeding import numpy_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, ClientPrompt, Split, Update


class BlackBoxConfig(MethodConfig):
    """What a client may ask, and what it minimises."""

    queries: int = Field(
        320, ge=1, description="queries (a prompt on an example) of a client in a round, all that it asks included"
    )
    batch_size: int = Field(16, ge=1, description="examples on which prompts are compared, the same ones for all")
    loss: Literal["cross_entropy", "hinge", "accuracy"] = Field(
        "cross_entropy", description="what the search makes small; accuracy: the share of errors"
    )
    margin: float = Field(2.0, gt=0, description="of the hinge loss (BBT)")
    keep_zero_shot: bool = Field(
        True, description="deploy the zero-shot prompt if it does better on validation data than what was trained"
    )


class ClientOracle:
    """One client's place in one round: its examples, its allowance, its random stream.

    ``left``: queries that it may still make. ``stream``: numpy's, named (seed, method, round, client), so no two
    clients and no two rounds draw alike. ``loss`` and ``accuracy`` are of the best prompt that was scored last.
    """

    def __init__(self, method: BlackBoxMethod, round: int, data: ClientData, queries: int) -> None:
        self.method, self.round, self.data, self.left = method, round, data, queries
        self.stream = numpy_stream(method.setup.seed, "search", method.name, round, data.client)
        self.loss = self.accuracy = float("nan")

    def batch(self, size: int | None = None) -> Tensor:
        """Rows ``(size,)`` of the client's training examples, without repetition; all of them if there are fewer."""
        wanted = min(size, len(self.data.train)) if size else self.method.batch_of(self.data)
        return torch.from_numpy(self.stream.choice(len(self.data.train), wanted, replace=False))

    def affords(self, prompts: int, rows: Tensor | None = None) -> bool:
        """Whether ``prompts`` prompts may still be scored on ``rows`` (a batch, if None)."""
        examples = self.method.batch_of(self.data) if rows is None else len(rows)
        return prompts * examples <= self.left

    def losses(self, candidates: Sequence[Candidate], rows: Tensor, *, split: Split | None = None) -> np.ndarray:
        """Mean loss ``(candidates,)`` float64 of each prompt on the examples in ``rows`` of the training split.

        Raises TrainingError if the allowance does not reach: ask ``affords`` first.
        """
        scores, labels = self.scores(candidates, rows, split=split)
        flat = scores.flatten(0, 1)
        each = self.method.sample_losses(flat, labels.repeat(len(candidates))).reshape(len(candidates), -1)
        losses: np.ndarray = each.double().mean(1).numpy()
        best = int(np.nanargmin(losses)) if np.isfinite(losses).any() else 0
        self.loss = float(losses[best])
        self.accuracy = (predicted(scores[best]) == labels).double().mean().item()
        return losses

    def scores(
        self, candidates: Sequence[Candidate], rows: Tensor, *, split: Split | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores ``(candidates, rows, classes)`` over the task's classes, NaN without an answer, and the labels
        ``(rows,)``."""
        chosen = split or self.data.train
        self.spend(len(candidates) * len(rows))
        items = [chosen.items[i] for i in rows.tolist()]
        found = self.method.oracle.score(candidates, items, self.method.setup.classes)
        return found, chosen.labels[rows]

    def spend(self, queries: int) -> None:
        """Take ``queries`` off the allowance. Raises TrainingError if it does not reach."""
        if queries > self.left:
            raise TrainingError(
                f"client {self.data.client} may make {self.left} more queries in round {self.round}, but "
                f"{self.method.name} asks for {queries}: raise --set method.queries"
            )
        self.left -= queries


class BlackBoxMethod(Method):
    """Say how a client searches (``search``) and what prompt a state stands for (``candidate``)."""

    access: ClassVar[Literal["white box", "black box", "any"]] = "black box"
    keeps: ClassVar[str] = "texts or images, the search's own state"
    Config: ClassVar[type[MethodConfig]] = BlackBoxConfig
    config: BlackBoxConfig

    def __init__(self, config: BlackBoxConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.oracle: Oracle = setup.oracle

    @abstractmethod
    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        """One client's work in one round: (what is sent, what it keeps). Asks through ``desk``."""

    @abstractmethod
    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        """The prompt that is deployed with these states; an empty ``personal`` is somebody who never took part."""

    def allowance(self, data: ClientData) -> int:
        """Queries that ``data``'s client may make in a round."""
        return self.config.queries

    @abstractmethod
    def step_queries(self, data: ClientData) -> int:
        """The least allowance with which ``data``'s client makes a step in a round: with less, what ``search`` returns
        is what it was given."""

    def batch_of(self, data: ClientData) -> int:
        """Examples of a batch that ``data``'s client draws."""
        return min(self.config.batch_size, len(data.train))

    def check_feasible(self, clients: Sequence[ClientData]) -> None:
        """Raise ConfigError if a client's allowance, or the run's budget of calls, reaches for no step."""
        super().check_feasible(clients)
        steps = [(data, self.step_queries(data)) for data in clients if len(data.train)]
        hungriest, most = max(steps, key=lambda step: step[1])
        share = self.allowance(hungriest) // self.config.queries
        needed = -(-most // share)
        if self.config.queries < needed:
            raise ConfigError(
                f"method option 'queries' is {self.config.queries}, with which {self.name} makes no step: it needs at "
                f"least {needed} queries a round here (client '{printable(hungriest.name, LONGEST)}' holds "
                f"{len(hungriest.train)} training examples): --set method.queries={needed}"
            )
        least, calls = min(step for _, step in steps), self.oracle.budget.limits.calls
        if calls and calls < least:
            raise ConfigError(
                f"--max-calls {calls} allows no step of {self.name}: one takes {least} queries here, besides what is "
                f"asked for validation and tests; allow more, or 0 to do with answers that are known already"
            )

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        desk = ClientOracle(self, broadcast.round, data, self.allowance(data))
        with self.oracle.account(round=broadcast.round, client=data.client):
            sent, kept = self.search(broadcast, data, personal, desk)
        return Update(data.client, sent, len(data.train), desk.loss, desk.accuracy), kept

    def sample_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Loss ``(n,)`` of each of ``scores`` ``(n, classes)``, as the options say; accuracy counts errors.

        Without an answer it is the largest loss among ``scores``: a text that is always refused then decides between
        no prompts, and a prompt that silences the model gains nothing by it.
        """
        if self.config.loss == "accuracy":
            return (predicted(scores) != labels).float()
        known, answered = as_if_uniform(scores), is_answered(scores)
        if self.config.loss == "cross_entropy":
            losses = F.cross_entropy(known, labels, reduction="none")
        else:
            losses = F.multi_margin_loss(known, labels, margin=self.config.margin, reduction="none")
        return losses if answered.all() else losses.where(answered, losses.max())

    # ------------------------------------------------------------------------------------------- prediction

    @property
    def sends_one_prompt(self) -> bool:
        """Whether it predicts with ``candidate`` alone and takes the scores as they come: whoever has that prompt needs
        nothing else. By default so, unless ``logits`` is the method's own."""
        return type(self).logits is BlackBoxMethod.logits

    def client_logits(self, prompt: ClientPrompt, classes: Sequence[str], split: Split) -> Tensor:
        """As every method's; with the zero-shot prompt where validation chose it (``promptfed.kept_text``)."""
        kept = kept_of(prompt)
        if kept is None:
            return super().client_logits(prompt, classes, split)
        return self.scored([Candidate(kept)], classes, split)[0]

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        return self.scored([self.candidate(shared, personal)], classes, split)[0]

    def scored(self, prompts: Sequence[Candidate], classes: Sequence[str], split: Split) -> Tensor:
        """Scores ``(prompts, n, classes)`` outside training. All classes that were agreed on are asked for, whichever
        are wanted, so that one answer serves every subset of them."""
        agreed = list(self.setup.classes)
        if not set(classes) <= set(agreed):
            return self.oracle.score(prompts, split.items, classes)
        columns = [agreed.index(name) for name in classes]
        return self.oracle.score(prompts, split.items, agreed)[..., columns]


def least(queries: int, suffices: Callable[[int], bool]) -> int:
    """The first number from ``queries`` on that ``suffices``: for methods that keep a part of the allowance back."""
    return next(number for number in count(queries) if suffices(number))
