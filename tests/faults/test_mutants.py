"""Damaged and forged files are taken or refused in one line, never a traceback, a hang or memory without end."""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.mutants import make_targets, mutate, run_mutants
from faults.outcomes import BAD


def test_every_reader_has_its_original_and_takes_it(tmp_path: Path) -> None:
    targets = make_targets(tmp_path / "files")
    assert len({target.reader for target in targets}) == len(targets) >= 30
    for target in targets:
        target.read()


def test_a_few_mutants_of_every_reader(tmp_path: Path) -> None:
    outcomes = run_mutants(seed=7, count=100, folder=tmp_path / "files")
    assert [outcome for outcome in outcomes if outcome.result in BAD] == []
    assert {outcome.result for outcome in outcomes} == {"accepted", "refused"}


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the system has one: a file that is written over thousands of times waits for a disk."""
    memory = Path("/dev/shm")
    is_there = memory.is_dir() and os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(dir=memory if is_there else tmp_path) as folder:
        yield Path(folder) / "files"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_thousands_of_mutants(files: Path, seed: int) -> None:
    outcomes = run_mutants(seed, count=2000, folder=files)
    assert len(outcomes) == 2000
    assert [outcome for outcome in outcomes if outcome.result in BAD] == []
    counts = Counter(outcome.result for outcome in outcomes)
    assert counts["refused"] > 1000
    assert counts["accepted"] > 200


def test_the_same_seed_makes_the_same_mutants() -> None:
    content = b'{"a": [1, 2, {"b": "c"}], "d": 0.5}'
    first, again, other = ([mutate(content, draw) for _ in range(50)] for draw in map(random.Random, (1, 1, 2)))
    assert first == again != other
    assert len({changed for _, changed in first}) > 40
