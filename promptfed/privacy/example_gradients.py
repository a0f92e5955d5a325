"""Gradients of single examples, and their clipped sum: what DP-SGD releases (Abadi et al. 2016, arXiv 1607.00133).

With cached image features, an example's loss depends on the prompt through the text features T ``(classes, dim)``
alone. Its gradient is then ``J^T c_j``: J, the derivative of T, is the same for all examples of a step, and
``c_j = s (softmax(s T x_j) - onehot(y_j)) x_j^T`` for cross-entropy of cosines. So one forward pass of the text tower
serves a whole step, and a backward pass for many examples at once gives their gradients.

J depends on the prompt and the class names only, and both are public. Clipping and noise may therefore act on the c_j
themselves, and J^T on what is released ("feature space"): one backward pass for a step, at the price of noise in all
``classes x dim`` directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from promptfed.class_sample import EVERY_CLASS
from promptfed.local_training import LocalObjective, Parameters
from promptfed.setup import Setup

CHUNK = 8
"""Examples that go backward through the text tower at once: memory grows with them, and speed hardly."""
FEATURE_CHUNK = 32
"""Examples whose gradients ``(classes, embed_dim)`` of the text features are held at once."""

Gradients = dict[str, Tensor]
"""Gradients by the name of what they belong to; those of several examples lie along the first dimension."""


class ExampleGradients:
    """One forward pass of a step, and the gradients of single examples behind it.

    Attributes:
        parameters: What is trained, by name: the leaves of the pass.
        features: Features of the step's texts, each ``(classes, embed_dim)``, by their position.
    """

    def __init__(
        self, objective: LocalObjective, parameters: Parameters, setup: Setup, *, is_unit_length: bool = False
    ) -> None:
        """Encode the texts of ``objective``.

        Args:
            objective: What a client minimises. Its loss of several rows is the mean of the losses of each.
            parameters: Its parameters.
            setup: The run's agreement and model.
            is_unit_length: Whether ``features`` have unit length, for clipping in feature space; the loss must then be
                one of cosines, which do not change with the length.
        """
        self.objective, self._all = objective, parameters
        self.parameters = {name: tensor for name, tensor in parameters.items() if tensor.requires_grad}
        texts = list(objective.texts(parameters))
        # The faster kernels of attention have no backward pass for several gradients at once.
        with nullcontext() if is_unit_length else sdpa_kernel(SDPBackend.MATH):
            encoded = setup.backbone.encode_prompted_texts(texts) if texts else []
        if is_unit_length:
            encoded = [F.normalize(features, dim=-1) for features in encoded]
        self.features = {f"text {number}": features for number, features in enumerate(encoded)}
        self._leaves = [features.detach() for features in encoded]

    def reads_features_alone(self) -> bool:
        """Return whether the parameters act on the loss through the features of the texts only."""
        if not self.features or not len(self.objective.labels):
            return bool(self.features)
        first = torch.zeros(1, dtype=torch.int64, device=self._leaves[0].device)
        return not self.objective.loss(self._all, self._leaves, first)[0].requires_grad

    def of_features(self, rows: Tensor) -> Iterator[Gradients]:
        """Yield the gradients of the examples at ``rows`` with respect to ``features``, some examples at a time."""

        def loss(features: Sequence[Tensor], row: Tensor) -> Tensor:
            value: Tensor = self.objective.loss(self._all, features, row[None])[0]
            return value

        for some in rows.split(FEATURE_CHUNK) if len(rows) else ():
            yield dict(zip(self.features, _each_gradient(loss, self._leaves, some), strict=True))

    def of_parameters(self, rows: Tensor) -> Iterator[Gradients]:
        """Yield the gradients of the examples at ``rows`` with respect to ``parameters``, some examples at a time."""
        if not self.reads_features_alone():
            yield from self._one_by_one(rows)
            return
        for gradients in self.of_features(rows):
            parts = [each.split(CHUNK) for each in gradients.values()]
            for some in zip(*parts, strict=True):
                yield self._each_pulled_back(some)

    def pulled_back(self, gradients: Mapping[str, Tensor]) -> Gradients:
        """Return ``J^T c``: one gradient c of ``features`` as a gradient of ``parameters``."""
        return self._backward(list(self.features.values()), [gradients[name] for name in self.features])

    def of_penalties(self) -> Gradients:
        """Return the gradient of the objective's penalties with respect to ``parameters``; empty without any."""
        if not self.objective.penalties:
            return {}
        features = list(self.features.values())
        values = [penalty(self._all, features, EVERY_CLASS) for penalty in self.objective.penalties]
        return self._backward([torch.stack(values).sum()])

    def _each_pulled_back(self, gradients: Sequence[Tensor]) -> Gradients:
        """Return ``J^T c_j`` for the c_j along the first dimension, all at once if every part of the tower can."""
        features = list(self.features.values())
        try:
            return self._backward(features, gradients, is_batched=True)
        except RuntimeError:
            each = [self._backward(features, some) for some in zip(*gradients, strict=True)]
            return {name: torch.stack([one[name] for one in each]) for name in self.parameters}

    def _one_by_one(self, rows: Tensor) -> Iterator[Gradients]:
        """Yield the gradient of each example, from a loss of its own."""
        features = list(self.features.values())
        for row in rows:
            gradients = self._backward([self.objective.loss(self._all, features, row[None])[0]])
            yield {name: gradient[None] for name, gradient in gradients.items()}

    def _backward(
        self, outputs: Sequence[Tensor], gradients: Sequence[Tensor] | None = None, *, is_batched: bool = False
    ) -> Gradients:
        found = torch.autograd.grad(
            outputs,
            list(self.parameters.values()),
            gradients,
            retain_graph=True,
            is_grads_batched=is_batched,
            materialize_grads=True,
        )
        return dict(zip(self.parameters, found, strict=True))


def _each_gradient(
    loss: Callable[[Sequence[Tensor], Tensor], Tensor], features: Sequence[Tensor], rows: Tensor
) -> list[Tensor]:
    """Return the gradients of ``loss(features, row)`` with respect to each of ``features`` ``(rows, *shape)``."""
    try:
        return list(torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(list(features), rows))
    except (RuntimeError, ValueError):  # a loss that asks for values takes one row at a time
        leaves = [each.requires_grad_() for each in (f.clone() for f in features)]
        each = [torch.autograd.grad(loss(leaves, row), leaves, materialize_grads=True) for row in rows]
        return [torch.stack(some) for some in zip(*each, strict=True)]


def clipped_sum(gradients: Iterable[Gradients], start: Mapping[str, Tensor], limit: float) -> Gradients:
    """Return ``sum_j g_j min(1, limit / |g_j|)`` in float64, the norm over all tensors of an example together.

    One example more or less changes it by at most ``limit``. A gradient that is not finite counts as zero.

    Args:
        gradients: Those of some examples at a time.
        start: Tensors by name, which say the shapes and the device of the sum.
        limit: The norm C to clip to.
    """
    total = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in start.items()}
    for some in gradients:
        each = {name: gradient.double().flatten(1) for name, gradient in some.items()}
        norms = torch.stack([gradient.square().sum(1) for gradient in each.values()]).sum(0).sqrt()
        weights = torch.where(norms.isfinite(), limit / norms.clamp(min=limit), 0.0)
        for name, gradient in each.items():
            gradient = torch.where(norms.isfinite()[:, None], gradient, 0.0)
            total[name] += (weights @ gradient).view_as(total[name])
    return total
