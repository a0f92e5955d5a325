"""The frame that Fed-SB trains in: singular vectors of the clients' mean gradient, found without showing one of them.

For each matrix with gradient G ``(out, in)``, a randomised SVD (Halko et al. 2011) needs ``Y = G A0^T`` for a random
``A0``, an orthonormal basis Q of Y, and ``Q^T G``. Both are linear in G, so their means over clients are those of the
mean gradient. Both are gradients of LoRA's factors: Y that of B at ``(A0, B = 0)``, and ``Q^T G`` that of A at
``(A = 0, B = Q)``, where the model is the frozen one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from promptfed.aggregators.base import Aggregator, AggregatorWrapper
from promptfed.inserts.low_rank import A, B, factor_name
from promptfed.inserts.square_low_rank import FROZEN, SquareLowRank
from promptfed.language_models.insert import Factors
from promptfed.local_batches import BATCH
from promptfed.local_training import FitMetrics
from promptfed.prompt_state import PromptState
from promptfed.types import ClientData, Update

if TYPE_CHECKING:
    from promptfed.methods.fedsb import FedSB

SKETCH = "sketch/"
"""Before the names of what the first two rounds send."""


def sketch_values(kind: SquareLowRank, shared: PromptState) -> tuple[dict[str, Tensor], str]:
    """Return factors by LoRA's names at which the model is the frozen one, and the factor whose gradient is sent."""
    values: dict[str, Tensor] = {}
    factor = B
    for path in kind.paths:
        b = shared[factor_name(path, B, SKETCH)]
        a = shared.get(factor_name(path, A, SKETCH))
        factor = B if a is None else A
        rows = kind.random_rows(path, kind.rank, "sketch") if a is None else a
        values |= kind.named(path, Factors(rows, b))
    return values, factor


def mean_gradient(method: FedSB, shared: PromptState, data: ClientData) -> Update:
    """Return one client's mean gradient of the factors that are asked for, on all its training examples."""
    values, factor = sketch_values(method.kind, shared)
    names = [name for name in values if name.endswith(factor)]
    rest = {name: tensor for name, tensor in shared.items() if not name.startswith(SKETCH)}
    objective = method.objective(PromptState({**rest, **values}), data.train, names)
    device = method.model.device
    parameters = {n: t.to(device, copy=True).requires_grad_(True) for n, t in objective.start.items()}
    fit, labels = FitMetrics(), data.train.labels
    for rows in torch.arange(len(labels)).split(BATCH):
        loss, scores = objective.loss(parameters, [], rows.to(device))
        (loss * (len(rows) / len(labels))).backward()
        fit.add(loss.detach(), scores.detach().cpu(), labels[rows])
    gradients = {f"{SKETCH}{n}": p.grad for n, p in parameters.items() if p.grad is not None}
    return Update(data.client, PromptState(gradients), len(data.train), fit.loss, fit.accuracy)


class FirstGradient(AggregatorWrapper):
    """``inner``, which in the first two rounds turns the mean of sketches into A and B."""

    def __init__(self, inner: Aggregator, kind: SquareLowRank) -> None:
        super().__init__(inner)
        self.kind = kind

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        merged, server = self.inner.apply(shared, updates, server)
        if not any(name.startswith(SKETCH) for name in merged):
            return merged, server
        rest = {name: tensor for name, tensor in merged.items() if not name.startswith(SKETCH)}
        for path, (_, width) in self.kind.shapes.items():
            name_a, name_b = factor_name(path, A, SKETCH), factor_name(path, B, SKETCH)
            if name_a not in merged:
                rest |= {name_b: columns_of(merged[name_b]), name_a: torch.zeros(self.kind.rank, width)}
            else:
                rest |= self.kind.named(path, frame(merged[name_b], merged[name_a]), FROZEN)
        if any(name.startswith(SKETCH) for name in rest):
            return PromptState(rest), server
        return PromptState({**rest, **self.kind.start()}), server


def columns_of(sketch: Tensor) -> Tensor:
    """Return orthonormal columns ``(out, r)`` that span those of ``sketch``."""
    basis: Tensor = torch.linalg.qr(sketch.double()).Q
    return basis


def frame(q: Tensor, projected: Tensor) -> Factors:
    """Return the leading singular vectors of ``Q (Q^T G)``: A of the right ones, B of the left.

    Args:
        q: Orthonormal columns ``(out, r)``.
        projected: ``Q^T G`` ``(r, in)``.
    """
    u, _, v = torch.linalg.svd(projected.double(), full_matrices=False)
    return Factors(v, q.double() @ u)
