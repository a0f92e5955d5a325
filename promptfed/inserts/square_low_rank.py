"""A change ``s sum_i B_i R_i A_i`` with frozen A and B: only small square matrices R are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.inserts.base import MODULE
from promptfed.inserts.low_rank import A, B, LowRank, factor_name
from promptfed.language_models.insert import Factors
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream

R, FACTOR = "lora_R.weight", "lora_s.weight"
"""Ends of the names of the square matrices ``(heads, r, r)`` and of the factors of heads ``(heads,)``."""
FROZEN = "frozen/"
"""Before the names of A and B that the server made; otherwise they are drawn from the seed."""


class SquareLowRank(LowRank):
    """``R`` ``(heads, r, r)`` of each matrix between frozen ``A`` ``(heads * r, in)`` and ``B`` ``(out, heads * r)``.

    Rows of A, and columns of B, are orthonormal over all heads. For PEFT, ``B R`` is B. Values without R but with plain
    factors are read as LoRA.

    Args:
        matrices: Path of every linear layer -> (out, in).
        targets: The ends of the paths of those that are changed.
        seed: The run's.
        heads: Square matrices beside each other.
        options: As of LowRank; ``r`` is of one head.
    """

    def __init__(
        self,
        matrices: Mapping[str, tuple[int, int]],
        targets: Sequence[str],
        seed: int,
        *,
        heads: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(matrices, targets, seed, **options)
        self.heads, self.rank = heads, heads * self.r
        narrow = {path: min(shape) for path, shape in self.shapes.items() if min(shape) < self.rank}
        if narrow:
            path, width = next(iter(narrow.items()))
            raise ConfigError(
                f"options 'r' and 'heads' are {self.r} and {heads}, and {path} has {width} dimensions, where their "
                f"product must fit: use --set method.r={max(1, width // heads)} or less"
            )

    def start(self, *purpose: str | int) -> PromptState:
        """Return zeros: the frozen model itself."""
        return PromptState({factor_name(path, R): torch.zeros(self.heads, self.r, self.r) for path in self.paths})

    @cached_property
    def random_factors(self) -> dict[str, Tensor]:
        """Orthonormal A and B of every matrix, drawn from the seed, under FROZEN names."""
        values: dict[str, Tensor] = {}
        for path, (out, width) in self.shapes.items():
            a = torch.randn(width, self.rank, generator=torch_stream(self.seed, "square", A, path), dtype=torch.float64)
            b = torch.randn(out, self.rank, generator=torch_stream(self.seed, "square", B, path), dtype=torch.float64)
            a, b = torch.linalg.qr(a).Q.float(), torch.linalg.qr(b).Q.float()
            values |= self.named(path, Factors(a.T.contiguous(), b), FROZEN)
        return values

    def changes(self, values: Mapping[str, Tensor]) -> dict[str, tuple[Factors, ...]]:
        if not any(name.startswith(MODULE) and name.endswith(R) for name in values):
            return super().changes(values)
        changes: dict[str, tuple[Factors, ...]] = {}
        for path in self.paths:
            a, b = values[factor_name(path, A, FROZEN)], values[factor_name(path, B, FROZEN)]
            square = values[factor_name(path, R)]
            if (factors := values.get(factor_name(path, FACTOR))) is not None:
                square = square * factors[:, None, None]
            heads = b.view(len(b), self.heads, self.r).transpose(0, 1) @ square  # (heads, out, r)
            changes[path] = (Factors(a, heads.transpose(0, 1).reshape(len(b), self.rank), self.scale(self.r)),)
        return changes
