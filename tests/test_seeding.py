"""Streams are independent, stable across versions and machines, and leave the global generators alone."""

from __future__ import annotations

import random

import numpy as np
import torch

from promptfed.seeding import derive, numpy_stream, torch_stream


def test_derived_seeds_are_pinned() -> None:
    # Recorded once: another value here means that old runs can no longer be repeated.
    assert derive(0) == 3_456_079_177_858_693_020
    assert derive(0, "batches", 1, 2) == 1_991_402_753_374_238_222
    assert derive(7, "participants", 3) == 6_724_800_520_723_600_379


def test_draws_are_pinned() -> None:
    assert numpy_stream(0, "participants", 1).permutation(8).tolist() == [3, 5, 0, 2, 1, 6, 4, 7]
    assert torch.randperm(8, generator=torch_stream(0, "batches", 1, 0)).tolist() == [4, 3, 6, 5, 0, 2, 7, 1]


def test_a_stream_depends_on_its_name_alone() -> None:
    first = torch.randn(5, generator=torch_stream(3, "context"))
    numpy_stream(3, "other").random(100)
    assert torch.equal(torch.randn(5, generator=torch_stream(3, "context")), first)
    assert numpy_stream(3, "context").random() == numpy_stream(3, "context").random()


def test_every_part_of_the_name_counts() -> None:
    names = [(), ("a",), ("b",), ("a", 1), ("a", "1"), ("a", 1, 2), ("a", 12), ("a", 2, 1), (1, "a"), ("a|int:1",)]
    seeds = [derive(seed, *name) for seed in (0, 1, 10) for name in names]
    assert len(set(seeds)) == len(seeds)


def test_clients_and_rounds_never_share_a_stream() -> None:
    seeds = {derive(0, "batches", round, client) for round in range(100) for client in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_neighbouring_streams_are_uncorrelated() -> None:
    draws = np.stack([numpy_stream(0, "x", client).standard_normal(4000) for client in range(8)])
    between = np.corrcoef(draws) - np.eye(8)
    assert np.abs(between).max() < 5 / 4000**0.5


def test_the_global_generators_are_untouched() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    torch.rand(3, generator=torch_stream(0, "x"))
    numpy_stream(0, "x").random(3)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
