"""The fault suites are scripts: they are imported from the checkout's folder of scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SCRIPTS = str(Path(__file__).parents[2] / "scripts")
if SCRIPTS not in sys.path:
    sys.path.append(SCRIPTS)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """The suites fork: a child has none of the threads that its parent's OpenMP counts on, and would wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
