"""PromptState: named tensors, the only thing that is trained, sent, merged and exported."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from promptfed.errors import FormatError, RunError
from promptfed.files.atomic import write_bytes
from promptfed.printable import printable
from promptfed.readers.tensors import parse_tensors, read_tensor_bytes


def _kept(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() or tensor.dtype == torch.bool else tensor.dtype


class PromptState(Mapping[str, Tensor]):
    """An immutable mapping of names, in alphabetical order, to CPU tensors, with a vector space's arithmetic.

    Tensors are float32; integers (token ids, the bytes of a text) stay the integers that they are, and become float32
    in arithmetic.

    >>> start, end = PromptState({"ctx": torch.zeros(4, 8)}), PromptState({"ctx": torch.ones(4, 8)})
    >>> start.interpolate(end, 0.25)["ctx"][0, 0].item()
    0.25
    >>> (end + 3 * end)["ctx"][0, 0].item(), (end - start).is_finite()
    (4.0, True)
    >>> end.mismatch(PromptState({"ctx": torch.ones(2, 8)}))
    "'ctx' is (4, 8) and (2, 8)"
    >>> PromptState.from_bytes(end.to_bytes()) == end
    True

    Two states combine only if their names and shapes agree; otherwise ValueError names the difference.
    """

    __slots__ = ("_tensors",)

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        values = {} if tensors is None else tensors
        # Safetensors files are sorted by name; being so too makes a state and its copy from disk the same value.
        self._tensors = {
            name: values[name].detach().to("cpu", _kept(values[name])).clone(memory_format=torch.contiguous_format)
            for name in sorted(values)
        }

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{printable(name)} {tuple(t.shape)}" for name, t in self.items())
        return f"PromptState({shapes or 'empty'})"

    def __eq__(self, other: object) -> bool:
        """Return whether names, shapes and values are the same (a NaN equals nothing)."""
        if not isinstance(other, PromptState):
            return NotImplemented
        return list(self) == list(other) and all(torch.equal(self[name], other[name]) for name in self)

    __hash__ = None  # type: ignore[assignment]

    # ------------------------------------------------------------------------------------------ vector space

    def __add__(self, other: PromptState) -> PromptState:
        return self.combine(other, torch.add)

    def __sub__(self, other: PromptState) -> PromptState:
        return self.combine(other, torch.sub)

    def __mul__(self, factor: float) -> PromptState:
        return self.map(lambda t: t.float() * factor)

    __rmul__ = __mul__

    def map(self, change: Callable[[Tensor], Tensor]) -> PromptState:
        """Return a new state with ``change`` applied to every tensor."""
        return PromptState({name: change(t) for name, t in self.items()})

    def combine(self, other: PromptState, operation: Callable[[Tensor, Tensor], Tensor]) -> PromptState:
        """Return a new state with ``operation`` applied tensor by tensor; ValueError if the two do not fit."""
        difference = self.mismatch(other)
        if difference:
            raise ValueError(f"prompt states do not fit: {difference}")
        return PromptState({name: operation(t, other[name]) for name, t in self.items()})

    def mismatch(self, other: PromptState) -> str | None:
        """In words, how names or shapes differ; None if the two can be combined."""
        if set(self) != set(other):
            return f"names {sorted(self)} and {sorted(other)}"
        for name, t in self.items():
            if t.shape != other[name].shape:
                return f"'{name}' is {tuple(t.shape)} and {tuple(other[name].shape)}"
        return None

    def interpolate(self, other: PromptState, alpha: float) -> PromptState:
        """``(1 - alpha) * self + alpha * other``; exact at alpha 0 and 1."""
        return self.combine(other, lambda mine, theirs: torch.lerp(mine.float(), theirs.float(), alpha))

    def norm(self) -> float:
        """Euclidean norm over all values, accumulated in float64."""
        return math.sqrt(sum(t.double().square().sum().item() for t in self.values()))

    def is_finite(self) -> bool:
        """Return whether no value is infinite or no number."""
        return all(bool(torch.isfinite(t).all()) for t in self.values())

    # ---------------------------------------------------------------------------------------- serialisation

    @property
    def nbytes(self) -> int:
        """Bytes of the serialised state as it travels, header included; 0 for an empty state (nothing is sent)."""
        return len(self.to_bytes()) if self._tensors else 0

    def to_bytes(self) -> bytes:
        """Return the state as safetensors bytes; the same state always gives the same bytes."""
        return save({name: t.contiguous() for name, t in self.items()})

    @classmethod
    def from_bytes(cls, data: bytes) -> PromptState:
        """Read a state from safetensors bytes. Raises RunError if ``data`` is something else."""
        try:
            return cls(parse_tensors(data))
        except FormatError as error:
            raise RunError(f"not a safetensors prompt: {error}") from error

    def save(self, path: Path) -> None:
        """Write the state whole or not at all. Raises DiskError if the disk refuses."""
        write_bytes(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> PromptState:
        """Read a state from a file. Raises RunError naming ``path`` if it is missing or damaged."""
        try:
            return cls.from_bytes(read_tensor_bytes(path))
        except (OSError, FormatError, RunError) as error:
            raise RunError(f"cannot read prompt {path}: {error}") from error

    def sha256(self) -> str:
        """Return the hex SHA-256 of the serialised state."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def tensors_under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, named by what follows it.

    >>> sorted(tensors_under({"local/ctx": torch.zeros(2), "ctx": torch.ones(2)}, "local/"))
    ['ctx']
    """
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
