"""What holds for every search strategy is checked around every test of one."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def nothing_global_changes(tmp_path, monkeypatch):
    """No draw from a global generator, and no file in the working directory, whatever the test does."""
    monkeypatch.chdir(tmp_path)
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    python, torches = random.getstate(), torch.get_rng_state()
    yield
    name_after, keys_after, *rest_after = np.random.get_state()  # noqa: NPY002
    assert (name, rest) == (name_after, rest_after)
    assert (keys == keys_after).all(), "numpy's global generator was used"
    assert random.getstate() == python, "Python's global generator was used"
    assert torch.equal(torch.get_rng_state(), torches), "torch's global generator was used"
    assert not list(tmp_path.iterdir()), "a file was written to the working directory"


@pytest.fixture
def stream():
    return np.random.default_rng(20261125)
