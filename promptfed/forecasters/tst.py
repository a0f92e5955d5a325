"""The bundled forecaster `tst`: a small transformer for series that ships inside the package and needs no network.

`scripts/train_tiny_tst.py` made its weights; see the model card beside them.
"""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import torch
from torch import Tensor

from promptfed.backbones.base import freeze, hash_tensors
from promptfed.backbones.device import pick_device
from promptfed.bundled_weights import load_network
from promptfed.examples.series import SeriesForm
from promptfed.forecasters.model import Forecaster
from promptfed.forecasters.tst_network import (
    LONGEST_HISTORY,
    LONGEST_HORIZON,
    PATCH,
    QUANTILES,
    TstNetwork,
)

LARGEST = 10.0
"""Values further from the mean of a past, in its deviations, are cut to this."""


class Tst(Forecaster):
    """The network behind what every forecaster has. A past that is shorter than it takes is missing before."""

    longest_history: ClassVar[int] = LONGEST_HISTORY
    longest_horizon: ClassVar[int] = LONGEST_HORIZON
    quantiles: ClassVar[tuple[float, ...]] = QUANTILES

    def __init__(self, form: SeriesForm, network: TstNetwork, device: torch.device) -> None:
        super().__init__("tst", form, device)
        self.network = freeze(network.to(device))
        self._loaded = self._weights_sha256()

    def __reduce__(self) -> tuple[type[Tst], tuple[Any, ...]]:
        """Pickle what it is made of."""
        return Tst, (self.form, self.network, self.device)

    def with_form(self, form: SeriesForm) -> Tst:
        """Return the same model for other windows; the weights are shared."""
        assert isinstance(self.network, TstNetwork), "it was made with one"
        return Tst(form, self.network, self.device)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"tst 1|{self._loaded}".encode()).hexdigest()

    def _weights_sha256(self) -> str:
        return hash_tensors(self.network.state_dict().items())

    def _forecast(self, past: Tensor, states: dict[str, Tensor], guess: Tensor | None, trust: Tensor | None) -> Tensor:
        rows, history = past.shape
        horizon = self.form.horizon
        values = past.new_zeros(rows, LONGEST_HISTORY - history)
        before = torch.cat([values, past.clamp(-LARGEST, LARGEST)], 1)
        observed = torch.cat([values, torch.ones_like(past)], 1)
        rest = past.new_zeros(rows, -horizon % PATCH)
        nothing = past.new_zeros(rows, horizon)
        ahead = nothing if guess is None else guess.clamp(-LARGEST, LARGEST)
        weight = nothing if trust is None else trust
        out: Tensor = self.network(torch.cat([before, ahead, rest], 1), torch.cat([observed, weight, rest], 1))
        return out[:, :horizon]


def load_tst(form: SeriesForm, *, device: str = "cpu") -> Tst:
    """Load the bundled weights.

    Raises:
        BackboneError: A file is missing, or its SHA-256 is not the one in the config.
    """
    network = load_network("tst", "promptfed.forecasters.tst_weights", TstNetwork)
    return Tst(form, network, pick_device(device))
