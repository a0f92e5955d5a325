"""Directions of prompts: a prompt is their weighted sum, a few weights are those of the first, the file is whole."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
import torch

from promptfed import bundled_weights
from promptfed.errors import BackboneError
from promptfed.policies.loading import load_basis
from promptfed.policies.prompt_basis import DIRECTIONS


def test_a_prompt_is_the_start_and_a_weighted_sum_of_directions() -> None:
    basis = load_basis()
    assert torch.equal(basis(torch.zeros(1, 4))[0], basis.start)
    weights = torch.tensor([[0.0, 2.0], [1.0, -1.0]])
    expected = torch.stack([2 * basis.directions[1], basis.directions[0] - basis.directions[1]]) + basis.start
    torch.testing.assert_close(basis(weights), expected)
    padded = torch.cat([weights, torch.zeros(2, DIRECTIONS - 2)], 1)
    torch.testing.assert_close(basis(padded), basis(weights))


def test_the_bundled_basis_is_small_and_damage_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    whole = (files("promptfed.policies.dt_basis") / "weights.safetensors").read_bytes()
    assert len(whole) < 300_000
    (tmp_path / "config.json").write_text(json.dumps({"sha256": "0" * 64}))
    (tmp_path / "weights.safetensors").write_bytes(whole)
    monkeypatch.setattr(bundled_weights, "files", lambda package: tmp_path)
    with pytest.raises(BackboneError, match="is damaged"):
        load_basis()
