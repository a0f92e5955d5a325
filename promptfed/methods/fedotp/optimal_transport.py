"""Unbalanced optimal transport between the places of an image and a few prompts, for many pairs at once."""

from __future__ import annotations

import torch
from torch import Tensor

LOOK_EVERY = 10
"""Steps between two checks whether all problems are solved; each check waits for the device."""
LEAST_SMOOTHING = 0.01
"""Similarities differ by at most 2, so the kernel spans at most exp(200), which float64 holds with room to spare."""


@torch.no_grad()
def transport_plan(
    similarity: Tensor, mass: float = 1.0, smoothing: float = 0.1, steps: int = 100, tolerance: float = 1e-3
) -> Tensor:
    """Return plans ``(..., prompts, places)`` that carry ``mass`` at the least entropic cost.

    Every prompt gets exactly ``mass / prompts``; every place gives at most ``1 / places``, and exactly that if ``mass``
    is 1. So places that fit no prompt may stay out.

    Solved by Sinkhorn's scaling with a bound (Chizat et al. 2018; FedOTP's equations): ``Pi = diag(u) K diag(v)``, ``u
    <- min(a / (K v), 1)``, ``v <- b / (K' u)``, ``K = exp((similarity - 1) / smoothing)``. Each problem stops by its
    own ``v``, so its plan does not depend on the rest of the batch. The prompts' shares are exact whenever it stops;
    the places' bounds are met better the longer it runs (small ``smoothing`` converges slowly).

    Args:
        similarity: Cosines ``(..., prompts, places)``; the cost is one minus it.
        mass: The mass to carry, 0 < mass <= 1.
        smoothing: Weight of the entropy, at least LEAST_SMOOTHING.
        steps: The most steps.
        tolerance: Stop when ``v`` changes by less than this (relative).
    """
    prompts, places = similarity.shape[-2:]
    wide = similarity.double()
    # A factor common to a whole kernel goes into v; the largest entry 1 keeps all others in range.
    kernel = ((wide - wide.amax((-2, -1), keepdim=True)) / smoothing).exp()
    kernel = kernel.reshape(-1, prompts, places)
    give, take = 1.0 / places, mass / prompts

    def from_places(v: Tensor) -> Tensor:
        return (give / (v @ kernel)).clamp(max=1.0)

    def to_prompts(u: Tensor) -> Tensor:
        return take / (u @ kernel.mT)

    v = torch.full_like(kernel[:, :1, :1], take).expand(-1, 1, prompts)
    converged = torch.zeros_like(kernel[:, :1, :1], dtype=torch.bool)
    for step in range(steps):
        update = to_prompts(from_places(v))
        close = ((update - v).abs() <= tolerance * update).all(-1, keepdim=True)
        v = torch.where(converged, v, update)
        converged |= close
        if step % LOOK_EVERY == LOOK_EVERY - 1 and bool(converged.all()):
            break
    u = from_places(v)
    plan = to_prompts(u).mT * kernel * u
    return plan.reshape(similarity.shape).to(similarity.dtype)
