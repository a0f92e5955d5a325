"""The interface of a kind of insert: what it starts from, and how a reading takes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.language_models.insert import Insert
from promptfed.printable import printable
from promptfed.prompt_state import PromptState

MODULE = "base_model.model."
"""What PEFT writes before the path of a module."""


class InsertKind(ABC):
    """One kind of insert for one model. It holds options and sizes, and no trained values: those are a PromptState.

    The names of the tensors are PEFT's file keys, so that an export is a copy and sorted names are stable.
    """

    peft_type: ClassVar[str]
    """What PEFT calls it: PROMPT_TUNING, PREFIX_TUNING, LORA, IA3."""

    @abstractmethod
    def start(self, *purpose: str | int) -> PromptState:
        """Return what training starts from; the same purpose gives the same values, from named streams of the seed."""

    @abstractmethod
    def insert(self, values: Mapping[str, Tensor]) -> Insert:
        """Return the insert that ``values`` (named as in ``start``) make; gradients flow through."""

    def interpolate(self, start: PromptState, end: PromptState, alpha: float) -> PromptState | None:
        """Return values whose insert lies ``alpha`` of the way from that of ``start`` to that of ``end``.

        By default the values' own mixture, which serves where inserts are linear in them. None: there are no such
        values, and scores must be mixed instead. Tensors of other names, a head's, are mixed as they are.
        """
        return start.interpolate(end, alpha)

    def start_from(self, insert: Insert) -> PromptState:
        """Return the values, named as in ``start``, that make ``insert``: what an adapter from elsewhere begins with.

        Raises:
            ConfigError: It is of another kind or size. The line goes on after "the adapter".
        """
        raise ConfigError(f"cannot be told from what {type(self).__name__} makes of its own values")

    @abstractmethod
    def peft_config(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the fields of ``adapter_config.json`` that say what PEFT needs to load ``peft_tensors(values)``.

        Ranks and lengths are those of ``values``: they can change from round to round.
        """

    def peft_tensors(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of ``adapter_model.safetensors``; by default ``values`` themselves."""
        return dict(values)


def check_shape(what: str, shape: Sequence[int], wanted: Sequence[int], fix: str) -> None:
    """Raise ConfigError, whose line goes on after "the adapter", if ``shape`` is not ``wanted``."""
    if tuple(shape) != tuple(wanted):
        raise ConfigError(f"has {what} of shape {tuple(shape)}, and the method's is {tuple(wanted)}: {fix}")


def check_modules(adapter: Iterable[str], method: Iterable[str]) -> None:
    """Raise ConfigError, whose line goes on after "the adapter", if it changes other modules than the method."""
    theirs, ours = set(adapter), set(method)
    if theirs == ours:
        return
    names = ",".join(sorted({path.rpartition(".")[2] for path in theirs}))
    fix = f"--set method.targets={printable(names, 200)}"
    if strange := sorted(theirs - ours):
        raise ConfigError(f"changes '{printable(strange[0], 120)}', which this method leaves as it is: {fix}")
    raise ConfigError(f"leaves '{printable(sorted(ours - theirs)[0], 120)}' as it is, which this method changes: {fix}")
