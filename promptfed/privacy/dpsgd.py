"""DP-SGD inside a client: each of its examples is protected from everybody, the server included (Abadi et al. 2016).

A step takes a secret Poisson batch of the client's n examples, each with probability b / n, clips the gradient of each
example, adds Gaussian noise to the sum and divides by b, whatever the batch has. An empty batch is noise alone. All
else is post-processing: optimiser, schedule, penalties that depend on no example, and the server's work. Everything
that is trained takes part, a personal part too, so that what stays at the client is protected like what is sent.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from promptfed.errors import ConfigError, TrainingError
from promptfed.local_batches import examples_in_a_step
from promptfed.local_training import GradientTraining, LocalObjective, LocalSteps, Parameters
from promptfed.method import TrainingJob
from promptfed.privacy.accountant import Release
from promptfed.privacy.example_gradients import ExampleGradients, Gradients, clipped_sum
from promptfed.privacy.noise import noised_sum, release_stream
from promptfed.privacy.sampling import poisson_sample
from promptfed.privacy.secret_key import SecretKey, read_key
from promptfed.prompt_state import PromptState
from promptfed.setup import Setup
from promptfed.types import Update

ClipSpace = Literal["parameters", "features"]
"""Where gradients are clipped and noised: at what is trained, or at the text features before it."""


@dataclass(frozen=True)
class Batches:
    """How a client's examples come into its steps. The number of its examples counts as public.

    Attributes:
        size: The expected number of examples of a step, b; what a sum is divided by.
        probability: The chance of each example to be in a step, b / n.
        steps: The number of steps in a round.
    """

    size: int
    probability: float
    steps: int

    @classmethod
    def of(cls, config: LocalSteps, examples: int, classes: int) -> Batches:
        """Return those of a client with ``examples``, where a step encodes the texts of ``classes``."""
        if not examples:
            return cls(1, 1.0, 0)
        size = min(examples, examples_in_a_step(config.batch_size, examples, classes) * config.accumulate)
        return cls(size, size / examples, config.local_epochs * math.ceil(examples / size))

    def releases(self, multiplier: float, rounds: int) -> tuple[Release, ...]:
        """Return what ``rounds`` rounds of a client release, for the accountant."""
        return (Release(multiplier, self.probability, self.steps * rounds),) if self.steps * rounds else ()


@dataclass(frozen=True)
class DPSGD:
    """Trains clients with noise.

    Attributes:
        key: The secret that batches and noise come from: a site's own, never the run's seed. Clients that are
            simulated together share one, and have streams of their own.
        clip: C, the largest L2 norm of an example's gradient, over all that is trained together.
        multiplier: z, the noise's standard deviation over C; 0: no noise, and nothing is promised.
        space: Where gradients are clipped.
        stage: What the noise is for, as a part of its label.
    """

    key: SecretKey
    clip: float
    multiplier: float
    space: ClipSpace = "parameters"
    stage: str = ""

    def terms(self, folder: Path) -> ExampleTerms:
        """Return the same for another process, which finds the key in ``folder``."""
        return ExampleTerms(folder.resolve(), self.clip, self.multiplier, self.space, self.stage)

    def train_many(self, method: GradientTraining, jobs: Sequence[TrainingJob]) -> list[tuple[Update, PromptState]]:
        """Do as ``method.train_many``, with noise. Neither a loss nor an accuracy leaves the client.

        Raises:
            ConfigError: The method's loss does not go with ``space``.
            TrainingError: A prompt is not finite.
        """
        results = []
        for broadcast, data, personal in jobs:
            objective = method.problem(broadcast, data, personal)
            trained = self.trained(data.client, objective, method.config, method.setup, broadcast.round)
            sent, kept = method.split_update(trained, broadcast, data, personal)
            results.append((Update(data.client, sent, len(data.train), math.nan, math.nan), kept))
        return results

    def trained(
        self, client: int, objective: LocalObjective, config: LocalSteps, setup: Setup, round: int
    ) -> PromptState:
        """Return what ``objective`` starts from after one round of a client's steps.

        The batch and the noise of a step depend on (stage, client, round, step) and on the values so far, so a round
        that is done again is the same, and one that starts elsewhere shares no noise with it.
        """
        parameters = objective.parameters(setup.model.device)
        moved = {name: tensor for name, tensor in parameters.items() if tensor.requires_grad}
        optimizer = config.optimizer_for(moved, config.rate(round, setup.rounds), objective.lr_multipliers)
        batches = Batches.of(config, len(objective.labels), len(setup.classes))
        for number in range(batches.steps):
            label = f"{self.stage}, client {client}, step {number}, {_digest(parameters)}"
            batch = poisson_sample(self.key, round, len(objective.labels), batches.probability, label)
            rows = torch.tensor(batch, dtype=torch.int64, device=setup.model.device)
            step = ExampleGradients(objective, parameters, setup, is_unit_length=self.space == "features")
            gradients = self._noised(step, rows, round, label)
            penalties = step.of_penalties()
            for name, tensor in moved.items():
                tensor.grad = gradients[name] / batches.size
                if penalties:
                    tensor.grad += penalties[name]
            optimizer.step()
            with torch.no_grad():
                objective.project(parameters)
        state = PromptState(parameters)
        if not state.is_finite():
            raise TrainingError(
                f"the prompt of client {client} in round {round} is not finite; the last finished round is kept. Lower "
                f"the learning rate (--set method.lr={config.lr / 10:g})"
            )
        return state

    def _noised(self, step: ExampleGradients, rows: Tensor, round: int, label: str) -> Gradients:
        """Return the noised sum of the clipped gradients at ``rows``, as a gradient of the parameters."""
        if self.space == "parameters":
            return self._with_noise(clipped_sum(step.of_parameters(rows), step.parameters, self.clip), round, label)
        if not step.reads_features_alone():
            raise ConfigError(
                "privacy.clip_space=features goes with losses that depend on the prompt through the features of class "
                "names alone: use privacy.clip_space=parameters"
            )
        noised = self._with_noise(clipped_sum(step.of_features(rows), step.features, self.clip), round, label)
        return step.pulled_back(noised)

    def _with_noise(self, total: Gradients, round: int, label: str) -> Gradients:
        """Return ``total`` with noise, in float32; the tensors are one vector, in the order of their names."""
        names = sorted(total)
        values = torch.cat([total[name].flatten() for name in names])
        if self.multiplier:
            stream = release_stream(self.key, label, round, values, self.clip, self.multiplier)
            values = noised_sum(values, self.clip, self.multiplier, stream).to(values.device)
        parts = values.float().split([total[name].numel() for name in names])
        return {name: part.view_as(total[name]) for name, part in zip(names, parts, strict=True)}


@dataclass(frozen=True)
class ExampleTerms:
    """A ``DPSGD`` as another process is told of it, which reads the key in ``folder`` itself: it is in no message."""

    folder: Path
    clip: float
    multiplier: float
    space: ClipSpace
    stage: str

    def training(self) -> DPSGD:
        """Return what trains so.

        Raises:
            RunError: The key is not there, or others can read it.
        """
        return DPSGD(read_key(self.folder), self.clip, self.multiplier, self.space, self.stage)


def _digest(parameters: Parameters) -> str:
    """Return the hex SHA-256 of the values of ``parameters``."""
    return hashlib.sha256(PromptState(parameters).to_bytes()).hexdigest()
