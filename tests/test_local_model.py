"""What models with weights in this process have in common."""

from __future__ import annotations

import pytest
import torch

from promptfed.errors import BackboneError, ConfigError
from promptfed.local_model import LocalModel
from promptfed.usage import Usage


class Toy(LocalModel):
    kind = "forecaster"
    does = "counts sheep"
    fingerprint = "f" * 64
    abilities = frozenset({"count"})

    def __init__(self) -> None:
        super().__init__("toy", torch.device("cpu"))
        self.weight = torch.zeros(1)
        self._loaded = self._weights_sha256()

    def _weights_sha256(self) -> str:
        return str(self.weight.item())

    def template_scores(self, template, split, classes):
        raise NotImplementedError


def test_a_change_of_its_weights_is_found() -> None:
    model = Toy()
    model.verify_frozen()
    model.weight += 1
    with pytest.raises(BackboneError, match="model 'toy' changed during the run"):
        model.verify_frozen()
    assert model.weights_sha256 == "0.0", "what was loaded"


def test_what_it_lacks_is_said() -> None:
    model = Toy()
    model.check_offers(["count"], "method 'x'")
    with pytest.raises(ConfigError, match="method 'x' needs a model with play and sing, and 'toy' counts sheep"):
        model.check_offers(["sing", "count", "play"], "method 'x'")
    assert model.usage() == Usage()
    assert model.describe() == {"backbone": {"name": "toy", "fingerprint": "f" * 64}}
