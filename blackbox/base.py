"""The base of black-box methods: clients query an oracle within a budget of queries."""

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
    """Budget of a client's queries, and the loss that it minimises."""

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
    """One client's access to the oracle in one round: its examples, its budget, its random stream.

    ``left``: queries that it may still make. ``stream``: numpy's, named (seed, method, round, client), so no two
    clients and no two rounds draw alike. ``loss`` and ``accuracy`` are of the best prompt in the last request.
    """

    def __init__(self, method: BlackBoxMethod, round: int, data: ClientData, queries: int) -> None:
        self.method, self.round, self.data, self.left = method, round, data, queries
        self.stream = numpy_stream(method.setup.seed, "search", method.name, round, data.client)
        self.loss = self.accuracy = float("nan")

    def batch(self, size: int | None = None) -> Tensor:
        """Draw rows ``(size,)`` of the client's training examples without repetition, or all if there are fewer."""
        count = min(size, len(self.data.train)) if size else self.method.batch_of(self.data)
        return torch.from_numpy(self.stream.choice(len(self.data.train), count, replace=False))

    def affords(self, prompts: int, rows: Tensor | None = None) -> bool:
        """Return whether ``prompts`` prompts may still be scored on ``rows`` (a batch, if None)."""
        examples = self.method.batch_of(self.data) if rows is None else len(rows)
        return prompts * examples <= self.left

    def losses(self, candidates: Sequence[Candidate], rows: Tensor, *, split: Split | None = None) -> np.ndarray:
        """Return the mean loss ``(candidates,)`` float64 of each prompt on ``rows`` of the training split.

        Raises:
            TrainingError: The budget is too small: call ``affords`` first.
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
        """Return scores ``(candidates, rows, classes)`` and the labels ``(rows,)``.

        Scores are over the task's classes, NaN without an answer.
        """
        examples = split or self.data.train
        self.spend(len(candidates) * len(rows))
        items = [examples.items[i] for i in rows.tolist()]
        scores = self.method.oracle.score(candidates, items, self.method.setup.classes)
        return scores, examples.labels[rows]

    def spend(self, queries: int) -> None:
        """Subtract ``queries`` from the budget.

        Raises:
            TrainingError: It is too small.
        """
        if queries > self.left:
            raise TrainingError(
                f"client {self.data.client} may make {self.left} more queries in round {self.round}, but "
                f"{self.method.name} asks for {queries}: raise --set method.queries"
            )
        self.left -= queries


class BlackBoxMethod(Method):
    """Base of methods on a black box.

    A subclass says how a client searches (``search``) and which prompt a state stands for (``candidate``).
    """

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
        """Do one client's work in one round, with queries through ``desk``; return (its upload, its personal state)."""

    @abstractmethod
    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        """Return the prompt that is deployed with these states; ``personal`` is empty without a client's own part."""

    def allowance(self, data: ClientData) -> int:
        """Return the queries that ``data``'s client may make in a round."""
        return self.config.queries

    @abstractmethod
    def step_queries(self, data: ClientData) -> int:
        """Return the least budget with which ``data``'s client makes a step in a round.

        With less, ``search`` returns its input.
        """

    def batch_of(self, data: ClientData) -> int:
        """Return the number of examples in a batch of ``data``'s client."""
        return min(self.config.batch_size, len(data.train))

    def check_feasible(self, clients: Sequence[ClientData]) -> None:
        """Raise ConfigError if a client's budget, or the run's budget of calls, allows no step."""
        super().check_feasible(clients)
        steps = [(data, self.step_queries(data)) for data in clients if len(data.train)]
        hungriest, largest = max(steps, key=lambda step: step[1])
        share = self.allowance(hungriest) // self.config.queries
        shortest = -(-largest // share)
        if self.config.queries < shortest:
            raise ConfigError(
                f"method option 'queries' is {self.config.queries}, with which {self.name} makes no step: it needs at "
                f"least {shortest} queries a round here (client '{printable(hungriest.name, LONGEST)}' holds "
                f"{len(hungriest.train)} training examples): --set method.queries={shortest}"
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
            upload, new_personal = self.search(broadcast, data, personal, desk)
        return Update(data.client, upload, len(data.train), desk.loss, desk.accuracy), new_personal

    def sample_losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss ``(n,)`` of each of ``scores`` ``(n, classes)``, as the options say; accuracy counts errors.

        Without an answer it is the largest loss among ``scores``: a text that is always refused then does not decide
        between prompts, and a prompt that silences the model gains nothing by it.
        """
        if self.config.loss == "accuracy":
            return (predicted(scores) != labels).float()
        usable, has_answer = as_if_uniform(scores), is_answered(scores)
        if self.config.loss == "cross_entropy":
            losses = F.cross_entropy(usable, labels, reduction="none")
        else:
            losses = F.multi_margin_loss(usable, labels, margin=self.config.margin, reduction="none")
        return losses if has_answer.all() else losses.where(has_answer, losses.max())

    # ------------------------------------------------------------------------------------------- prediction

    @property
    def sends_one_prompt(self) -> bool:
        """Return whether it predicts with ``candidate`` alone and takes the scores as they are.

        Then that prompt is all that a deployment needs. By default this holds unless ``logits`` is overridden.
        """
        return type(self).logits is BlackBoxMethod.logits

    def client_logits(self, prompt: ClientPrompt, classes: Sequence[str], split: Split) -> Tensor:
        """Return scores as every method does, or the zero-shot prompt's where validation chose it."""
        text = kept_of(prompt)
        if text is None:
            return super().client_logits(prompt, classes, split)
        return self.scored([Candidate(text)], classes, split)[0]

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        return self.scored([self.candidate(shared, personal)], classes, split)[0]

    def scored(self, prompts: Sequence[Candidate], classes: Sequence[str], split: Split) -> Tensor:
        """Return scores ``(prompts, n, classes)`` outside training.

        All agreed classes are queried, whichever are wanted, so that one answer serves every subset of them.
        """
        agreed = list(self.setup.classes)
        if not set(classes) <= set(agreed):
            return self.oracle.score(prompts, split.items, classes)
        columns = [agreed.index(name) for name in classes]
        return self.oracle.score(prompts, split.items, agreed)[..., columns]


def least(queries: int, suffices: Callable[[int], bool]) -> int:
    """Return the first number from ``queries`` on that ``suffices``.

    It serves methods that reserve a part of the budget.
    """
    return next(number for number in count(queries) if suffices(number))
