"""A client's local training: gradient steps on whatever a method minimises, for one client or several at once."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import PromptedText
from promptfed.errors import ConfigError, TrainingError
from promptfed.local_optimizers import SGD, Adam, LocalOptimizer, TrainedTensor
from promptfed.method import FeatureMethod, MethodConfig, TrainingJob
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Update

Parameters = dict[str, Tensor]
"""The trained tensors by name, with gradients, on the backbone's device."""


class LocalTraining(MethodConfig):
    """Options of a client's training in one round.

    The optimiser starts afresh each round: its state never leaks between clients or outlives an overwritten prompt. The
    learning rate follows the round, not the client's own count.
    """

    optimizer: Literal["sgd", "adam", "adamw"] = Field("adam", description="of a client's steps")
    lr: float = Field(0.01, gt=0, description="learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(0.0, ge=0, description="of the optimizer")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="of the learning rate, over the rounds")
    local_epochs: int = Field(2, ge=1, description="epochs over a client's examples in a round")
    batch_size: int = Field(32, ge=1, description="examples in a step")
    loss: Literal["cross_entropy", "sigmoid"] = Field(
        "cross_entropy", description="of scaled cosines: a softmax over classes, or a sigmoid of each class (SigLIP's)"
    )

    def rate(self, round: int, rounds: int) -> float:
        """Learning rate of ``round`` (from 1) out of ``rounds``."""
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(round - 1, rounds) / rounds))

    def optimizer_for(
        self, parameters: Mapping[str, Tensor], rate: float, lr_multipliers: Mapping[str, float]
    ) -> LocalOptimizer:
        """Return an optimizer without a history.

        Args:
            parameters: What is trained, by name.
            rate: The learning rate.
            lr_multipliers: Multiply the rate of some parameters.
        """
        tensors = [TrainedTensor(t, rate * lr_multipliers.get(name, 1.0)) for name, t in parameters.items()]
        if self.optimizer == "sgd":
            return SGD(tensors, self.momentum, self.weight_decay)
        return Adam(tensors, self.weight_decay, is_decoupled=self.optimizer == "adamw")


@dataclass(frozen=True)
class LocalObjective:
    """What one client minimises in one round.

    ``start``: the values that training starts from, by name; all of them are trained. ``labels`` ``(n,)``.
    ``texts(parameters)``: the prompted texts that a step needs, encoded for all clients of a batch together.
    ``loss(parameters, features, rows)``: from those texts' features (in order, each ``(rows, embed_dim)``, not
    normalised) and the batch's rows of the client's data to (loss, logits ``(batch, classes)``).
    ``lr_multipliers`` multiply the learning rate of some names. ``project`` may correct the parameters in place after
    each step.
    """

    start: PromptState
    labels: Tensor
    loss: Callable[[Parameters, Sequence[Tensor], Tensor], tuple[Tensor, Tensor]]
    texts: Callable[[Parameters], Sequence[PromptedText]] = lambda parameters: ()
    lr_multipliers: Mapping[str, float] = field(default_factory=dict)
    project: Callable[[Parameters], None] = lambda parameters: None


class FitMetrics:
    """Mean loss and accuracy over the samples that local training went through."""

    def __init__(self) -> None:
        self._loss = self._right = 0.0
        self._samples = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self._loss += loss.item() * len(labels)
        self._right += (logits.argmax(-1) == labels).sum().item()
        self._samples += len(labels)

    @property
    def loss(self) -> float:
        return self._loss / max(1, self._samples)

    @property
    def accuracy(self) -> float:
        return self._right / max(1, self._samples)


class _Trainee:
    """One client in training."""

    def __init__(self, client: int, problem: LocalObjective, config: LocalTraining, setup: Setup, round: int) -> None:
        device = setup.backbone.device
        self.client, self.problem, self.fit = client, problem, FitMetrics()
        self.parameters = {n: t.to(device, copy=True).requires_grad_(True) for n, t in problem.start.items()}
        self.optimizer = config.optimizer_for(self.parameters, config.rate(round, setup.rounds), problem.lr_multipliers)
        self.labels = problem.labels.to(device)
        self.batches = self._batches(config, torch_stream(setup.seed, "batches", round, client))

    def _batches(self, config: LocalTraining, shuffle: torch.Generator) -> Iterator[Tensor]:
        for _ in range(config.local_epochs):
            for rows in torch.randperm(len(self.labels), generator=shuffle).split(config.batch_size):
                yield rows.to(self.labels.device)


def train_clients(
    problems: Sequence[tuple[int, LocalObjective]], config: LocalTraining, setup: Setup, round: int
) -> list[tuple[PromptState, FitMetrics]]:
    """Train the clients of ``problems`` (client, problem) side by side; each ends as if it had been alone.

    Every step encodes the texts of all clients in one pass of the text tower. No client's loss depends on another's
    parameters, so one backward pass over the sum of losses gives each its own gradient.
    Batches are drawn from the stream (seed, "batches", round, client).
    Raises TrainingError, naming client and round, at the first loss that is not finite.
    """
    trainees = [_Trainee(client, problem, config, setup, round) for client, problem in problems]
    while True:
        active = [(t, rows) for t in trainees for rows in [next(t.batches, None)] if rows is not None]
        if not active:
            return [(PromptState(t.parameters), t.fit) for t in trainees]
        prompted = [list(t.problem.texts(t.parameters)) for t, _ in active]
        features = iter(setup.backbone.encode_prompted_texts([text for texts in prompted for text in texts]))
        losses = []
        for (trainee, rows), texts in zip(active, prompted, strict=True):
            outputs = [next(features) for _ in texts]
            loss, logits = trainee.problem.loss(trainee.parameters, outputs, rows)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss of client {trainee.client} in round {round} is {loss.item()}; the last finished round "
                    f"is kept. Lower the learning rate (--set method.lr={config.lr / 10:g}) or use --precision float32"
                )
            trainee.fit.add(loss.detach(), logits.detach(), trainee.labels[rows])
            losses.append(loss)
        for trainee, _ in active:
            trainee.optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        for trainee, _ in active:
            trainee.optimizer.step()
            with torch.no_grad():
                trainee.problem.project(trainee.parameters)


ClassLoss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From a client's labels, a batch's logits ``(batch, classes)`` and its rows of the client's data to (loss, logits)."""


def cross_entropy_on(labels: Tensor, logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(loss, logits) for the batch's rows of a client's ``labels``."""
    return F.cross_entropy(logits, labels.to(logits.device)[rows]), logits


def class_loss(config: LocalTraining, setup: Setup, data: ClientData) -> ClassLoss:
    """Return the loss of one client's class logits, which are scaled cosines, that ``config`` names."""
    if config.loss == "cross_entropy":
        return cross_entropy_on
    bias = sigmoid_bias(setup, data)

    def loss(labels: Tensor, logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return sigmoid_loss(logits + bias, labels.to(logits.device)[rows]), logits

    return loss


def sigmoid_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over images of ``-sum_c log sigma(z_c logit_c)``, z 1 for an image's class and -1 for others.

    Zhai et al. 2023, arXiv 2303.15343, with the classes of a client in the place of a batch's texts.

    Args:
        logits: ``(batch, classes)``, the bias included.
        labels: ``(batch,)``.
    """
    signs = torch.full_like(logits, -1.0).scatter(1, labels[:, None], 1.0)
    return -F.logsigmoid(signs * logits).sum(-1).mean()


@torch.no_grad()
def sigmoid_bias(setup: Setup, data: ClientData) -> float:
    """Return b in ``sigma(s cos + b)``: the model's own, else one from the client's images that is frozen as well.

    A model that was trained by a softmax has none, and at b = 0 its cosines, all of which are positive, would call
    every class right. Its b is minus the mean over the client's training images of ``log sum_c exp(s cos)`` under the
    first hand-written template: a softmax subtracts just that, so zero-shot probabilities stay about what they are.
    """
    bias = setup.backbone.logit_bias
    if bias is not None or not len(data.train):
        return bias or 0.0
    template = setup.templates[0] if setup.templates else "{}"
    return -setup.model.template_scores(template, data.train, setup.classes).logsumexp(-1).mean().item()


class GradientMethod(FeatureMethod):
    """A method whose clients minimise a loss by gradient steps: say which, and what of the outcome is sent."""

    config: LocalTraining
    takes_sigmoid_loss: ClassVar[bool] = False
    """Whether it minimises cross-entropy over scaled cosines and nothing else, so that ``loss=sigmoid`` may replace it.

    Its ``problem`` then asks ``class_loss`` for the loss.
    """

    def __init__(self, config: LocalTraining, setup: Setup) -> None:
        super().__init__(config, setup)
        if config.loss == "sigmoid" and not self.takes_sigmoid_loss:
            raise ConfigError(
                f"option 'loss' is 'sigmoid', which {self.name} does not take: its loss is not cross-entropy over "
                "scaled cosines alone; leave it out (--set method.loss=cross_entropy), or use --method promptfl"
            )

    @abstractmethod
    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        """Return the client's objective in this round."""

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        """From the trained values to (what is sent, what the client keeps); by default all is sent."""
        return trained, personal

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        return self.train_many([(broadcast, data, personal)])[0]

    def train_many(self, jobs: Sequence[TrainingJob]) -> list[tuple[Update, PromptState]]:
        if not jobs:
            return []
        problems = [(data.client, self.problem(broadcast, data, personal)) for broadcast, data, personal in jobs]
        trained = train_clients(problems, self.config, self.setup, jobs[0][0].round)
        results = []
        for (broadcast, data, personal), (values, fit) in zip(jobs, trained, strict=True):
            sent, new_personal = self.split_update(values, broadcast, data, personal)
            results.append((Update(data.client, sent, len(data.train), fit.loss, fit.accuracy), new_personal))
        return results
