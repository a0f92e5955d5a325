"""The bundled policy: its weights are what its config says, and a wrong name gets one line."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from promptfed import bundled_weights
from promptfed.errors import BackboneError, ConfigError
from promptfed.examples.episodes import EpisodeForm
from promptfed.policies.loading import load_policy


def test_it_is_small_and_the_same_every_time() -> None:
    one, other = load_policy("dt", EpisodeForm()), load_policy("dt", EpisodeForm(steps=20))
    assert one.fingerprint == other.fingerprint
    assert not any(parameter.requires_grad for parameter in one.network.parameters())
    assert len((files("promptfed.policies.dt_weights") / "weights.safetensors").read_bytes()) < 1_000_000


def test_damaged_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    whole = files("promptfed.policies.dt_weights")
    (tmp_path / "config.json").write_text(json.dumps({"sha256": "0" * 64}))
    (tmp_path / "weights.safetensors").write_bytes((whole / "weights.safetensors").read_bytes())
    monkeypatch.setattr(bundled_weights, "files", lambda package: tmp_path)
    with pytest.raises(BackboneError, match="backbone 'dt' is damaged"):
        load_policy("dt", EpisodeForm())
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(BackboneError, match="cannot be read"):
        load_policy("dt", EpisodeForm())


def test_other_names_and_precisions_are_refused() -> None:
    with pytest.raises(ConfigError, match="backbone"):
        load_policy("nobody", EpisodeForm())
    with pytest.raises(ConfigError, match="precision 'bfloat16' does not go with backbone 'dt'"):
        load_policy("dt", EpisodeForm(), precision="bfloat16")
