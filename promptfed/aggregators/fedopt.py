"""Server optimisers: the merged change of a round is a gradient step for the server (Reddi et al. 2021, FedOpt).

``delta = sum_i (n_i / n) (theta_i - theta)``, weighted by samples, is the pseudo-gradient (of descent, so it is
added). A tensor without an update stays as it is, and so does the optimiser's memory of it. The same holds for a
tensor whose step or memory would leave float32: an infinite second moment would stop it for good.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import AGGREGATORS, Aggregator, AggregatorConfig
from promptfed.aggregators.deltas import difference
from promptfed.aggregators.mean import weighted_mean
from promptfed.prompt_state import PromptState
from promptfed.types import Update

log = logging.getLogger(__name__)
MOMENTUM, SECOND = "momentum/", "second/"


class ServerOptimizer(Aggregator):
    """Optimiser that steps along each round's merged change. Server memory: ``momentum/NAME``, ``second/NAME``."""

    needs = "sum"

    @abstractmethod
    def step(self, delta: Tensor, memory: dict[str, Tensor]) -> Tensor:
        """Return the step to add to one tensor, in float64.

        Args:
            delta: The round's merged change of the tensor, float64.
            memory: Its MOMENTUM (and SECOND); updated in place.
        """

    def init(self, shared: PromptState) -> PromptState:
        return PromptState({MOMENTUM + name: torch.zeros_like(tensor) for name, tensor in shared.items()})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        deltas = weighted_mean([difference(shared, update) for update in updates], [u.samples for u in updates])
        prompt, state = dict(shared), dict(server)
        for name, delta in deltas.items():
            memory = {key: server[key + name].double() for key in (MOMENTUM, SECOND) if key + name in server}
            value = shared[name].double() + self.step(delta.double(), memory)
            if all(tensor.float().isfinite().all() for tensor in (value, *memory.values())):
                prompt[name] = value
                state |= {key + name: tensor for key, tensor in memory.items()}
            else:
                log.warning("'%s' is left as it was: its change, up to %.0e, is too large", name, delta.abs().max())
        return PromptState(prompt), PromptState(state)


class FedAvgMConfig(AggregatorConfig):
    """Options of server momentum."""

    server_lr: float = Field(1.0, gt=0, description="server's learning rate")
    momentum: float = Field(0.5, ge=0, lt=1, description="share of the last step that is taken again")


@AGGREGATORS.register("fedavgm")
class FedAvgM(ServerOptimizer):
    """Mean with server momentum (Hsu et al. 2019): ``m <- momentum m + delta; theta <- theta + server_lr m``.

    With momentum 0 and server_lr 1 it is the mean. The paper's momentum is up to 0.99, over thousands of rounds.
    """

    Config = FedAvgMConfig
    config: FedAvgMConfig

    def step(self, delta: Tensor, memory: dict[str, Tensor]) -> Tensor:
        memory[MOMENTUM] = self.config.momentum * memory[MOMENTUM] + delta
        return self.config.server_lr * memory[MOMENTUM]


class AdaptiveConfig(AggregatorConfig):
    """Options of an adaptive server optimiser; changes far below ``tau`` (in the unit of the prompt) are damped."""

    server_lr: float = Field(0.03, gt=0, description="server's learning rate")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean of changes")
    tau: float = Field(1e-3, gt=0, description="added to the root of the squares: how adaptive a step is")


class FedAdagradConfig(AdaptiveConfig):
    """Options of FedAdagrad, by default without momentum, as in the paper's experiments."""

    beta1: float = Field(0.0, ge=0, lt=1, description="decay of the mean of changes")


class MovingConfig(AdaptiveConfig):
    """Options of FedAdam and FedYogi."""

    beta2: float = Field(0.99, ge=0, lt=1, description="decay of the mean of squares")


class AdaptiveOptimizer(ServerOptimizer):
    """Adaptive server optimiser without bias correction (Algorithm 2 of Reddi et al. 2021).

    ``m <- beta1 m + (1 - beta1) delta``, ``theta <- theta + server_lr m / (sqrt(v) + tau)``; ``v`` starts at ``tau^2``.
    Subclasses define how ``v`` follows ``delta^2``.
    """

    config: AdaptiveConfig

    @abstractmethod
    def second(self, previous: Tensor, squared: Tensor) -> Tensor:
        """Return ``v`` after a round, from the ``previous`` one and from ``squared`` = ``delta^2``."""

    def init(self, shared: PromptState) -> PromptState:
        second = {SECOND + name: torch.full_like(tensor, self.config.tau**2) for name, tensor in shared.items()}
        return PromptState({**super().init(shared), **second})

    def step(self, delta: Tensor, memory: dict[str, Tensor]) -> Tensor:
        beta = self.config.beta1
        memory[MOMENTUM] = beta * memory[MOMENTUM] + (1 - beta) * delta
        memory[SECOND] = self.second(memory[SECOND], delta.square())
        return self.config.server_lr * memory[MOMENTUM] / (memory[SECOND].sqrt() + self.config.tau)


@AGGREGATORS.register("fedadagrad")
class FedAdagrad(AdaptiveOptimizer):
    """Adagrad on the server (Reddi et al. 2021): ``v <- v + delta^2``."""

    Config = FedAdagradConfig
    config: FedAdagradConfig

    def second(self, previous: Tensor, squared: Tensor) -> Tensor:
        return previous + squared


@AGGREGATORS.register("fedadam")
class FedAdam(AdaptiveOptimizer):
    """Adam on the server (Reddi et al. 2021): ``v <- beta2 v + (1 - beta2) delta^2``."""

    Config = MovingConfig
    config: MovingConfig

    def second(self, previous: Tensor, squared: Tensor) -> Tensor:
        return self.config.beta2 * previous + (1 - self.config.beta2) * squared


@AGGREGATORS.register("fedyogi")
class FedYogi(AdaptiveOptimizer):
    """Yogi on the server (Reddi et al. 2021): ``v <- v - (1 - beta2) delta^2 sign(v - delta^2)``."""

    Config = MovingConfig
    config: MovingConfig

    def second(self, previous: Tensor, squared: Tensor) -> Tensor:
        return previous - (1 - self.config.beta2) * squared * torch.sign(previous - squared)
