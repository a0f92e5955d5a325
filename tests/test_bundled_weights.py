"""Bundled weights: compared with their SHA-256, put into their network, and no random number is taken."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from promptfed import bundled_weights
from promptfed.bundled_weights import load_network, read_weights
from promptfed.errors import BackboneError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    weights = save({name: torch.full_like(value, 2.0) for name, value in nn.Linear(2, 3).state_dict().items()})
    (tmp_path / "weights.safetensors").write_bytes(weights)
    (tmp_path / "config.json").write_text(json.dumps({"sha256": hashlib.sha256(weights).hexdigest(), "steps": 4}))
    monkeypatch.setattr(bundled_weights, "files", lambda package: tmp_path)
    return tmp_path


def test_a_network_has_the_weights_and_draws_nothing(folder: Path) -> None:
    state = torch.random.get_rng_state()
    network = load_network("toy", "some.package", lambda: nn.Linear(2, 3))
    assert bool((network.weight == 2).all())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert read_weights("toy", folder)[0]["steps"] == 4


def test_weights_of_another_network_changed_or_absent_are_refused(folder: Path) -> None:
    with pytest.raises(BackboneError, match=r"backbone 'toy' in .* is not of this version"):
        load_network("toy", "some.package", lambda: nn.Linear(2, 4))
    whole = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(whole + b" ")
    with pytest.raises(BackboneError, match="backbone 'toy' is damaged"):
        load_network("toy", "some.package", lambda: nn.Linear(2, 3))
    (folder / "weights.safetensors").unlink()
    with pytest.raises(BackboneError, match="backbone 'toy' cannot be read"):
        load_network("toy", "some.package", lambda: nn.Linear(2, 3))
