"""What a comparison says about differences: which test, against what, and when there is none."""

from __future__ import annotations

from typing import Any

import pytest

from promptfed.comparison.differences import (
    CORRECTION,
    NO_TEST,
    ON_EXAMPLES,
    OVER_SEEDS,
    differences_of,
    reference_of,
    with_differences,
)


def method(*bases: float, seeds: tuple[int, ...] = (0, 1, 2)) -> dict[str, Any]:
    rows = [
        {"seed": seed, "local": base, "local_all": base, "base": base, "new": None, "hm": None}
        for seed, base in zip(seeds, bases, strict=False)
    ]
    return {"label": "A", "left_out": "", "runs": rows}


def test_the_reference_is_promptfl_or_the_first_that_is_no_baseline() -> None:
    runs = method(0.5, 0.6)
    names = ("zero_shot", "local_only", "kgcoop", "promptfl")
    assert reference_of(dict.fromkeys(names, runs)) == "promptfl"
    assert reference_of(dict.fromkeys(names[:3], runs)) == "kgcoop"
    assert reference_of({**dict.fromkeys(names[:3], runs), "promptfl": method()}) == "kgcoop"
    assert reference_of(dict.fromkeys(names[:2], runs)) is None


def test_each_method_is_tested_against_promptfl_and_zero_shot_on_the_seeds_that_both_have() -> None:
    methods = {
        "zero_shot": method(0.4, 0.4, 0.4),
        "promptfl": method(0.4, 0.4, 0.7),
        "kgcoop": method(0.5, 0.6, 0.7),
        "late": method(0.8, 0.9, seeds=(1, 2)),
    }
    found = differences_of(methods, {})
    assert (found["test"], found["correction"]) == (OVER_SEEDS, CORRECTION)
    assert list(found["against"]) == ["promptfl", "zero_shot"]
    assert list(found["against"]["promptfl"]) == ["zero_shot", "kgcoop", "late"]
    entry = found["against"]["promptfl"]["kgcoop"]["base"]
    assert entry["p"] == pytest.approx(1 - (3 / 5) ** 0.5)
    assert entry["difference"] == pytest.approx(0.1)
    assert entry["seeds"] == 3
    assert found["against"]["promptfl"]["late"]["base"]["seeds"] == 2
    ps = sorted((row["base"]["p"], row["base"]["p_holm"]) for row in found["against"]["promptfl"].values())
    assert ps[0][1] == pytest.approx(min(1, 3 * ps[0][0]))
    assert "new" not in found["against"]["promptfl"]["kgcoop"]


def test_one_seed_is_tested_on_its_examples_or_not_at_all() -> None:
    methods = {"zero_shot": method(0.4), "promptfl": method(0.5), "kgcoop": method(0.6)}
    assert differences_of(methods, {}) == {"test": "", "correction": "", "note": NO_TEST, "against": {}}
    right = {"zero_shot": [False] * 8, "promptfl": [True] * 6 + [False] * 2, "kgcoop": [True] * 5}
    found = differences_of(methods, right)
    assert found["test"] == ON_EXAMPLES
    assert list(found["against"]["zero_shot"]) == ["promptfl"]  # kgcoop kept other examples
    assert found["against"]["zero_shot"]["promptfl"]["local_all"]["p"] == pytest.approx(2 / 64)
    assert found["against"]["zero_shot"]["promptfl"]["local_all"]["items"] == 8


def test_an_earlier_summary_gets_intervals_and_tests_and_keeps_all_else() -> None:
    earlier = {"seeds": [0, 1], "methods": {"zero_shot": method(0.5, 0.5), "kgcoop": method(0.5, 0.7)}}
    found = with_differences(earlier)
    assert found["seeds"] == [0, 1]
    low, high = found["methods"]["kgcoop"]["seed_intervals"]["base"]
    assert (low + high) / 2 == pytest.approx(0.6)
    assert "new" not in found["methods"]["kgcoop"]["seed_intervals"]
    assert found["tests"]["against"]["zero_shot"]["kgcoop"]["base"]["seeds"] == 2
    assert with_differences(found)["tests"] == found["tests"]
