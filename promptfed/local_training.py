"""A client's local training: gradient steps on whatever a method minimises, for one client or several at once."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from promptfed.backbones.base import PromptedText
from promptfed.class_sample import EVERY_CLASS, ClassSample, draw_classes
from promptfed.errors import ConfigError, TrainingError
from promptfed.local_batches import BATCH, BatchSize, epoch, examples_in_a_step
from promptfed.local_optimizers import SGD, Adam, LocalOptimizer, TrainedTensor
from promptfed.method import FeatureMethod, Method, MethodConfig, TrainingJob
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Update

Parameters = dict[str, Tensor]
"""The trained tensors by name, with gradients, on the backbone's device."""

Penalty = Callable[[Parameters, Sequence[Tensor], ClassSample], Tensor]
"""From the parameters, the features of the texts and the classes of a step to what is added to its loss."""


class LocalSteps(MethodConfig):
    """Options of a client's steps in one round.

    The optimiser starts afresh each round: its state never leaks between clients or outlives an overwritten prompt. The
    learning rate follows the round, not the client's own count.
    """

    optimizer: Literal["sgd", "adam", "adamw"] = Field("adam", description="of a client's steps")
    lr: float = Field(0.01, gt=0, description="learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(0.0, ge=0, description="of the optimizer")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="of the learning rate, over the rounds")
    local_epochs: int = Field(2, ge=1, description="epochs over a client's examples in a round")
    batch_size: BatchSize = Field(
        "auto", description="examples in a step; all: one step an epoch; auto: 32, more from 200 classes on"
    )
    accumulate: int = Field(
        1, ge=1, description="batches that make one step: their gradients are summed, and texts are encoded once"
    )

    @field_validator("batch_size", mode="before")
    @classmethod
    def _is_a_count_or_a_word(cls, value: Any) -> Any:
        if value not in ("auto", "all"):
            is_number = isinstance(value, (int, float, str)) and not isinstance(value, bool)
            try:
                count = int(value) if is_number else 0
            except (ValueError, OverflowError):
                count = 0
            if count < 1 or (isinstance(value, float) and count != value):
                raise ValueError("give a number of examples from 1, or 'all' or 'auto'")
            return count
        return value

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


class LocalTraining(LocalSteps):
    """Options of a client's training against a dual encoder in one round."""

    loss: Literal["cross_entropy", "sigmoid", "asymmetric"] = Field(
        "cross_entropy",
        description="of scaled cosines: a softmax over classes, a sigmoid of each class (SigLIP's), or the asymmetric "
        "one for several labels",
    )
    gamma_positive: float = Field(0.0, ge=0, description="of the asymmetric loss: exponent for an image's classes")
    gamma_negative: float = Field(4.0, ge=0, description="of the asymmetric loss: exponent for all other classes")
    margin: float = Field(0.05, ge=0, lt=1, description="of the asymmetric loss: probability that costs nothing")
    class_sample: int | None = Field(
        None, ge=1, description="classes drawn for a step's softmax beside those of its examples; none: all classes"
    )


LOSS_OPTIONS = frozenset({"loss", "gamma_positive", "gamma_negative", "margin"})
"""The options that say what ``class_loss`` is."""


@dataclass(frozen=True)
class LocalObjective:
    """What one client minimises in one round.

    ``start``: the values that training starts from, by name; all of them are trained. ``labels`` ``(n,)``.
    ``texts(parameters)``: the prompted texts that a step needs, encoded for all clients of a batch together.
    ``loss(parameters, features, rows)``: from those texts' features (in order, each ``(classes, embed_dim)``, not
    normalised) and the batch's rows of the client's data to (loss, logits ``(batch, classes)``). A loss that takes a
    ClassSample as a fourth argument can be minimised over a sample of the classes: its features and logits then have
    those only. Such texts have one row for each class.
    ``texts_of(parameters, rows)`` stands in the place of ``texts`` where examples have texts of their own: those of a
    step's rows, which then stay together (``is_mean`` is False).
    ``lr_multipliers`` multiply the learning rate of some names. ``project`` may correct the parameters in place after
    each step. ``is_mean``: the loss is a mean over the rows, so that it can be taken part by part. ``penalties`` are
    added to it, one after the other; they depend on no example. ``constants``: names that no step moves, though
    ``project`` may.
    """

    start: PromptState
    labels: Tensor
    loss: Callable[..., tuple[Tensor, Tensor]]
    texts: Callable[[Parameters], Sequence[PromptedText]] = lambda parameters: ()
    lr_multipliers: Mapping[str, float] = field(default_factory=dict)
    project: Callable[[Parameters], None] = lambda parameters: None
    is_mean: bool = True
    penalties: tuple[Penalty, ...] = ()
    constants: frozenset[str] = frozenset()
    texts_of: Callable[[Parameters, Tensor], Sequence[PromptedText]] | None = None

    def parameters(self, device: torch.device) -> Parameters:
        """Return a copy of ``start`` on ``device`` that can be trained."""
        return {
            name: tensor.to(device, copy=True).requires_grad_(name not in self.constants)
            for name, tensor in self.start.items()
        }


@dataclass(frozen=True)
class Step:
    """Examples of one step, in ``parts`` that pass through the loss one after the other, and its classes."""

    parts: tuple[Tensor, ...]
    sample: ClassSample = EVERY_CLASS

    @property
    def size(self) -> int:
        """The number of examples."""
        return sum(len(rows) for rows in self.parts)


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

    def __init__(self, client: int, problem: LocalObjective, config: LocalSteps, setup: Setup, round: int) -> None:
        device = setup.model.device
        self.client, self.problem, self.fit = client, problem, FitMetrics()
        self.parameters = problem.parameters(device)
        self.optimizer = config.optimizer_for(self.parameters, config.rate(round, setup.rounds), problem.lr_multipliers)
        self.labels = problem.labels.to(device)
        self.steps = self._steps(config, setup, round)

    def _steps(self, config: LocalSteps, setup: Setup, round: int) -> Iterator[Step]:
        shuffle = torch_stream(setup.seed, "batches", round, self.client)
        draw = torch_stream(setup.seed, "class sample", round, self.client)
        classes, class_sample = 0, config.class_sample if isinstance(config, LocalTraining) else None
        if config.batch_size == "auto" or class_sample is not None:
            with torch.no_grad():
                classes = max((len(text.tokens.end) for text in self.problem.texts(self.parameters)), default=0)
        size = examples_in_a_step(config.batch_size, len(self.labels), classes) * config.accumulate
        part = (config.batch_size if isinstance(config.batch_size, int) else BATCH) if self.problem.is_mean else size
        for _ in range(config.local_epochs):
            for parts in epoch(len(self.labels), size, part, shuffle):
                rows = tuple(part.to(self.labels.device) for part in parts)
                yield Step(rows, draw_classes(self.labels[torch.cat(rows)], classes, class_sample, draw))

    def texts(self, step: Step) -> list[PromptedText]:
        """Return the texts of ``step``."""
        if self.problem.texts_of is not None:
            return list(self.problem.texts_of(self.parameters, torch.cat(step.parts)))
        texts, columns = self.problem.texts(self.parameters), step.sample.columns
        return list(texts) if columns is None else [text.select(columns) for text in texts]

    def loss(self, step: Step, features: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Return the loss of one part of ``step``, and note it."""
        sample = () if step.sample is EVERY_CLASS else (step.sample,)
        loss, logits = self.problem.loss(self.parameters, features, rows, *sample)
        for penalty in self.problem.penalties:
            loss = loss + penalty(self.parameters, features, step.sample)
        self.fit.add(loss.detach(), logits.detach(), step.sample.positions(self.labels[rows]))
        return loss


def train_clients(
    problems: Sequence[tuple[int, LocalObjective]], config: LocalSteps, setup: Setup, round: int
) -> list[tuple[PromptState, FitMetrics]]:
    """Train the clients of ``problems`` (client, problem) side by side; each ends as if it had been alone.

    Every step encodes the texts of all clients in one pass of the text tower. No client's loss depends on another's
    parameters, so one backward pass over the sum of losses gives each its own gradient. Where the examples of a step
    are in parts, each part is taken back to the features of the texts, and their sum through the tower, once.
    Batches are drawn from the stream (seed, "batches", round, client), samples of classes from (seed, "class sample",
    round, client).
    Raises TrainingError, naming client and round, at the first loss that is not finite, and ConfigError for a sample of
    classes in a loss that takes none.
    """
    if isinstance(config, LocalTraining) and config.class_sample is not None:
        _check_samples(problems)
    trainees = [_Trainee(client, problem, config, setup, round) for client, problem in problems]
    while True:
        active = [(t, step) for t in trainees for step in [next(t.steps, None)] if step is not None]
        if not active:
            return [(PromptState(t.parameters), t.fit) for t in trainees]
        prompted = [trainee.texts(step) for trainee, step in active]
        texts_of_step = [text for texts in prompted for text in texts]
        encoded = setup.backbone.encode_prompted_texts(texts_of_step) if texts_of_step else []
        for trainee, _ in active:
            trainee.optimizer.zero_grad()
        is_whole = all(len(step.parts) == 1 for _, step in active)
        leaves = encoded if is_whole else [features.detach().requires_grad_() for features in encoded]
        features = iter(leaves)
        losses = []
        for (trainee, step), texts in zip(active, prompted, strict=True):
            outputs = [next(features) for _ in texts]
            for rows in step.parts:
                loss = trainee.loss(step, outputs, rows)
                if not torch.isfinite(loss):
                    raise TrainingError(
                        f"the loss of client {trainee.client} in round {round} is {loss.item()}; the last finished "
                        f"round is kept. Lower the learning rate (--set method.lr={config.lr / 10:g}) or use "
                        "--precision float32"
                    )
                if is_whole:
                    losses.append(loss)
                else:
                    (loss * (len(rows) / step.size)).backward()
        if is_whole:
            torch.stack(losses).sum().backward()
        else:
            _backward(encoded, leaves)
        for trainee, _ in active:
            trainee.optimizer.step()
            with torch.no_grad():
                trainee.problem.project(trainee.parameters)


def _backward(encoded: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
    """Take the gradients of ``leaves``, which are copies of ``encoded``, on through what made these."""
    pairs = [(whole, leaf.grad) for whole, leaf in zip(encoded, leaves, strict=True) if whole.requires_grad]
    if pairs := [(whole, gradient) for whole, gradient in pairs if gradient is not None]:
        torch.autograd.backward([whole for whole, _ in pairs], [gradient for _, gradient in pairs])


def _check_samples(problems: Sequence[tuple[int, LocalObjective]]) -> None:
    """Raise ConfigError for a loss that takes no sample of classes."""
    for _, problem in problems:
        if len(inspect.signature(problem.loss).parameters) < 4:
            raise ConfigError(
                "option 'class_sample' does not go with this method, whose loss takes no ClassSample: leave it out "
                "(--set method.class_sample=null)"
            )


class GradientTraining(Method):
    """A method whose clients minimise a loss by gradient steps, on any kind of frozen model.

    It says which loss, and what of the outcome is sent.
    """

    config: LocalSteps
    example_dp: ClassVar[bool] = False
    """Whether its clients may be trained by DP-SGD (privacy.dp=example).

    Its loss is then the mean of losses of one example each, and what a client starts a round from is public or was
    trained in the same way. A subclass says so anew.
    """
    mixes_examples: ClassVar[str] = ""
    """Why no loss belongs to one example alone; empty where each has its own."""

    @property
    def protects_examples(self) -> bool:
        """Whether the class itself, no base of it, says ``example_dp``, and leaves training as it is."""
        kind = type(self)
        is_plain = kind.train_many is GradientTraining.train_many and kind.train is GradientTraining.train
        return is_plain and bool(vars(kind).get("example_dp", False))

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


class GradientMethod(GradientTraining, FeatureMethod):
    """A method that learns by gradient steps against a dual encoder."""

    config: LocalTraining
    takes_sigmoid_loss: ClassVar[bool] = False
    """Whether the loss of its examples is cross-entropy over scaled cosines, so that another may replace it.

    Its ``problem`` then asks ``class_loss`` for the loss. What it adds to that stays as it is.
    """

    def __init__(self, config: LocalTraining, setup: Setup) -> None:
        super().__init__(config, setup)
        if config.loss in ("sigmoid", "asymmetric") and not self.takes_sigmoid_loss:
            raise ConfigError(
                f"option 'loss' is '{config.loss}', which {self.name} does not take: its loss is not cross-entropy "
                "over scaled cosines alone; leave it out (--set method.loss=cross_entropy), or use --method promptfl"
            )
        if config.class_sample is not None and (why := self.obstacle_to_sampling):
            raise ConfigError(
                f"option 'class_sample' does not go with {self.name}: {why}; leave it out "
                "(--set method.class_sample=null)"
            )

    @property
    def encodes_texts(self) -> bool:
        """Whether its steps encode the class names under a prompt that is trained."""
        return True

    @property
    def obstacle_to_sampling(self) -> str:
        """Why no softmax over a sample of the classes can be taken; empty if it can."""
        return "" if self.encodes_texts else "its steps encode no class names, so fewer classes save nothing"

    def data_notes(self, clients: Sequence[ClientData]) -> tuple[str, ...]:
        if self.config.batch_size != "auto" or not self.encodes_texts:
            return ()
        is_own = getattr(self.config, "label_space", "all") == "own"
        sizes = {
            client.client: examples_in_a_step(
                "auto", len(client.train), len(client.classes) if is_own else len(self.setup.classes)
            )
            for client in clients
        }
        largest = max(sizes.values(), default=BATCH) * self.config.accumulate
        if largest == BATCH * self.config.accumulate:
            return ()
        return (
            f"{len(self.setup.classes)} classes: a step has up to {largest} examples instead of {BATCH}, because each "
            f"encodes every class; --set method.batch_size={BATCH} takes more and slower steps",
        )
