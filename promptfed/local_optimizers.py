"""Optimisers of a client's steps: SGD with momentum, Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019).

They take the very steps of ``torch.optim``, to the bit. The first optimiser of torch that a process makes loads torch's
compiler, which takes longer than the training of a small run; these do not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
"""Adam's decay of the mean of the gradients and of their squares."""
EPSILON = 1e-8
"""What Adam adds to its denominator."""


@dataclass(frozen=True)
class TrainedTensor:
    """A leaf ``tensor`` with a gradient, and its learning ``rate``."""

    tensor: Tensor
    rate: float


class LocalOptimizer(ABC):
    """Moves tensors in place along their gradients; its state lives as long as it does, which is one round."""

    def __init__(self, tensors: Iterable[TrainedTensor], weight_decay: float = 0.0) -> None:
        self.tensors, self.weight_decay = tuple(tensors), weight_decay

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for trained in self.tensors:
            trained.tensor.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every tensor that has a gradient."""
        for number, trained in enumerate(self.tensors):
            if trained.tensor.grad is not None:
                self.move(number, trained.tensor, trained.tensor.grad, trained.rate)

    @abstractmethod
    def move(self, number: int, tensor: Tensor, gradient: Tensor, rate: float) -> None:
        """Move ``tensor``, the one at position ``number``, in place.

        Args:
            number: The position of the tensor, the key of its state.
            tensor: What is trained.
            gradient: Of the same shape; it is not changed.
            rate: The learning rate.
        """


class SGD(LocalOptimizer):
    """``v = momentum v + g; x -= rate v`` with ``g`` the gradient and ``weight_decay x``; ``v`` starts as ``g``."""

    def __init__(self, tensors: Iterable[TrainedTensor], momentum: float, weight_decay: float = 0.0) -> None:
        super().__init__(tensors, weight_decay)
        self.momentum = momentum
        self._velocities: dict[int, Tensor] = {}

    def move(self, number: int, tensor: Tensor, gradient: Tensor, rate: float) -> None:
        if self.weight_decay:
            gradient = gradient.add(tensor, alpha=self.weight_decay)
        if self.momentum:
            velocity = self._velocities.get(number)
            if velocity is None:
                self._velocities[number] = velocity = gradient.clone()
            else:
                velocity.mul_(self.momentum).add_(gradient)
            gradient = velocity
        tensor.add_(gradient, alpha=-rate)


class Adam(LocalOptimizer):
    """Adam, equation by equation of its algorithm 1.

    ``weight_decay`` joins the gradient; where the decay is decoupled (AdamW), it shrinks the tensor itself.
    """

    def __init__(
        self, tensors: Iterable[TrainedTensor], weight_decay: float = 0.0, *, is_decoupled: bool = False
    ) -> None:
        super().__init__(tensors, weight_decay)
        self.is_decoupled = is_decoupled
        self._steps: dict[int, int] = {}
        self._means: dict[int, Tensor] = {}
        self._squares: dict[int, Tensor] = {}

    def move(self, number: int, tensor: Tensor, gradient: Tensor, rate: float) -> None:
        if self.weight_decay and self.is_decoupled:
            tensor.mul_(1 - rate * self.weight_decay)
        elif self.weight_decay:
            gradient = gradient.add(tensor, alpha=self.weight_decay)
        if number not in self._steps:
            self._steps[number] = 0
            self._means[number], self._squares[number] = torch.zeros_like(tensor), torch.zeros_like(tensor)
        self._steps[number] += 1
        steps, mean, square = self._steps[number], self._means[number], self._squares[number]
        mean.lerp_(gradient, 1 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        mean_bias, square_bias = 1 - BETAS[0] ** steps, 1 - BETAS[1] ** steps
        denominator = (square.sqrt() / square_bias**0.5).add_(EPSILON)
        tensor.addcdiv_(mean, denominator, value=-(rate / mean_bias))
