"""What frozen models have in common whose weights are in this process."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch

from promptfed.errors import BackboneError, ConfigError
from promptfed.frozen_model import FrozenModel
from promptfed.usage import Usage


class LocalModel(FrozenModel):
    """A model with a name, a device, and weights that were hashed when they were loaded.

    A model sets ``_usage`` anew with each reading, and ``_loaded``, the hash of its weights, once they are in place.
    """

    does: ClassVar[str]
    """What it does, in a message that says why it is not enough."""
    _loaded: str

    def __init__(self, name: str, device: torch.device) -> None:
        self._name, self._device = name, device
        self._usage = Usage()

    @property
    def name(self) -> str:
        return self._name

    @property
    def device(self) -> torch.device:
        return self._device

    def check_offers(self, needed: Iterable[str], what: str) -> None:
        if lacking := sorted(set(needed) - self.abilities):
            raise ConfigError(f"{what} needs a model with {' and '.join(lacking)}, and '{self.name}' {self.does}")

    def usage(self) -> Usage:
        return self._usage

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weights that were loaded."""
        return self._loaded

    @abstractmethod
    def _weights_sha256(self) -> str:
        """Return the SHA-256 of its weights as they are now."""

    def verify_frozen(self) -> None:
        """Raise BackboneError if weights differ from those that were loaded."""
        if self._weights_sha256() != self._loaded:
            raise BackboneError(f"model '{self.name}' changed during the run: its weights are not what was loaded")

    def describe(self) -> dict[str, Any]:
        return {"backbone": {"name": self.name, "fingerprint": self.fingerprint}}
