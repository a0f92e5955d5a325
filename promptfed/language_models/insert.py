"""What a frozen language model reads with: vectors, keys and values, and changes of its matrices, all as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Factors:
    """A change ``scale * B A`` of a frozen matrix ``(out, in)`` (LoRA: Hu et al. 2022, arXiv 2106.09685).

    Attributes:
        a: ``(r, in)``.
        b: ``(out, r)``.
        scale: alpha / r in the paper.
    """

    a: Tensor
    b: Tensor
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Insert:
    """Everything that one reading adds to a frozen model. The parts can be combined; all may have gradients.

    Attributes:
        soft: Input vectors ``(n, width)`` before everything, the model's own start markers included, as PEFT has it.
        prefix: Keys and values ``(n, layers * 2 * kv_width)`` before every layer's own, in the order token, layer,
            (key, value), head, head size, as PEFT has it.
        frozen_below: Layers below this one have keys and values of ``prefix`` that nobody trains; their gradients are
            not computed.
        low_rank: Path of a matrix -> the changes that are added to it.
        ia3: Path of a module -> factors of its output ``(out, 1)`` or of its input ``(1, in)``, as PEFT has it.
    """

    soft: Tensor | None = None
    prefix: Tensor | None = None
    frozen_below: int = 0
    low_rank: Mapping[str, tuple[Factors, ...]] = field(default_factory=dict)
    ia3: Mapping[str, Tensor] = field(default_factory=dict)


NO_INSERT = Insert()
"""The frozen model as it is."""
