"""The frozen random projection from a short search vector to soft prompt vectors (BBT, Sun et al. 2022)."""

from __future__ import annotations

import math

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfed.blackbox.base import BlackBoxConfig
from promptfed.blackbox.oracles.base import SoftSpace
from promptfed.blackbox.oracles.query import Candidate
from promptfed.seeding import torch_stream


class SoftPromptConfig(BlackBoxConfig):
    """Options of a soft prompt under a random projection. The paper has n_tokens=50, dim=500."""

    n_tokens: int = Field(5, ge=1, le=256, description="soft prompt vectors")
    dim: int = Field(50, ge=1, le=4096, description="dimensions of the vector z that is searched (the paper's d)")
    alpha: float = Field(1.0, gt=0, description="scale of the projection against the model's own embeddings")
    sigma: float = Field(1.0, gt=0, description="initial step size of the search")


class Projection:
    """Frozen map ``p = A z + p0`` from ``z`` ``(dim,)`` to ``(n_tokens, width)``, the same for all parties.

    ``A``'s entries are N(0, s) with s = alpha * std(token embeddings) / (sqrt(dim) * sigma), so that a vector z drawn
    with deviation ``sigma`` makes prompt vectors as spread out as token embeddings (BBT's code). ``p0``: embeddings of
    common words drawn at random, as in BBT, zeros where the oracle knows no words. Both come from the
    run's seed, so they are never sent.
    """

    def __init__(self, config: SoftPromptConfig, space: SoftSpace, seed: int) -> None:
        draw = torch_stream(seed, "projection")
        std = config.alpha * space.std / (math.sqrt(config.dim) * config.sigma)
        self.shape = (config.n_tokens, space.dim)
        self.matrix = torch.randn(config.n_tokens * space.dim, config.dim, generator=draw) * std
        self.start = torch.zeros(self.shape)
        if len(space.words):
            rows = torch.randint(len(space.words), (config.n_tokens,), generator=torch_stream(seed, "first words"))
            self.start = space.words[rows].float().cpu()

    def vectors(self, z: Tensor) -> Tensor:
        """Map ``(dim,)`` to ``(n_tokens, width)`` float32."""
        return self.start + (self.matrix @ z.float()).reshape(self.shape)

    def candidate(self, z: Tensor) -> Candidate:
        """Return the soft prompt of ``z`` ``(dim,)``."""
        return Candidate(soft=self.vectors(z))


def vector(point: np.ndarray) -> Tensor:
    """Convert a search vector or matrix to the float32 tensor that travels."""
    return torch.from_numpy(np.asarray(point, dtype=np.float32))
