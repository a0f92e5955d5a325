"""Pools of prompts: read once, checked, and the same features for everybody who has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptfed.blackbox.tokens.prompt_pool import (
    agreed_prompts,
    checked_prompts,
    pool_tag,
    prompt_features,
    read_prompts,
)
from promptfed.errors import ConfigError

POOL = ("", "Sort this text.", "Sort this message.", "Think step by step.")


def test_a_file_is_read_once_and_never_named_again(tmp_path):
    path = tmp_path / "pool.txt"
    path.write_text("  Sort this text. \n\nThink first.\nSort this text.\n")
    options = read_prompts({"dim": 3, "prompts": f"file:{path}"})
    assert options == {"dim": 3, "prompts": ["Sort this text.", "Think first."]}
    for others in ({"prompts": "bundled"}, {"prompts": ("a", "b")}, {"prompts": None}, {}):
        assert read_prompts(others) == others


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one\none\n", "a pool of 1 different prompts: 2 to 5,000 are allowed"),
        ("one\n" + "a" * 2001 + "\n", "which is no prompt"),
        ("one\ntw\x07o\n", "which is no prompt"),
    ],
)
def test_what_is_no_pool_is_refused_in_a_line(tmp_path, content, message):
    path = tmp_path / "pool.txt"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        read_prompts({"prompts": f"file:{path}"})
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_prompts({"prompts": f"file:{tmp_path}/nothing.txt"})
    assert checked_prompts(["a", "b", "a"]) == ("a", "b")


@pytest.mark.parametrize("named", ["file:/etc/passwd", "mine"])
def test_a_file_that_a_run_or_a_bundle_names_is_never_read(named):
    with pytest.raises(ConfigError, match="is no pool: write 'bundled', a list, or file:PATH"):
        agreed_prompts(named, POOL)
    assert agreed_prompts(None, POOL) == agreed_prompts("bundled", POOL) == POOL
    assert agreed_prompts(["a", "b"], POOL) == ("a", "b")


@pytest.mark.parametrize("dim", [3, 32, 1000])
def test_features_are_unit_vectors_with_a_constant(dim):
    features = prompt_features(POOL, "hashing", dim, 0)
    assert features.shape == (4, min(dim, 257))
    assert np.linalg.norm(features, axis=1) == pytest.approx(np.ones(4))
    assert features[0].tolist() == [0.0] * (features.shape[1] - 1) + [1.0], "the empty prompt has no direction"
    assert features[1:, -1] == pytest.approx(np.full(3, np.sqrt(0.5)))
    assert np.array_equal(features, prompt_features(POOL, "hashing", dim, 0))
    if dim > 3:
        assert features[1] @ features[2] > features[1] @ features[3], "alike texts have alike features"


def test_tags_are_of_prompts_and_options():
    assert torch.equal(pool_tag(POOL, 1), pool_tag(POOL, 1))
    assert not torch.equal(pool_tag(POOL, 1), pool_tag(POOL, 2))
    assert not torch.equal(pool_tag(POOL, 1), pool_tag(POOL[::-1], 1))
