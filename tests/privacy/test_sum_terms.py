"""Terms of a secure sum: every one of them is in the digest, and what would show a client is no terms."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from promptfed.errors import SecureSumError
from promptfed.privacy.sum_terms import SumTerms, default_threshold

TERMS = SumTerms("a1b2", 3, 1, bytes(32), (0, 2, 5, 9), 3, 100, 0.5)


def test_each_term_changes_the_digest():
    others = {"run": "a1b3", "round": 4, "attempt": 2, "broadcast": b"\1" * 32, "cohort": (0, 2, 5, 8), "threshold": 4,
              "size": 101, "bound": 0.25, "max_weight": 2, "noise": 3.0, "honest": 2}  # fmt: skip
    assert others.keys() == TERMS.plain().keys()
    noisy = replace(TERMS, noise=2.0, honest=3)
    begins = {name: TERMS if name in ("max_weight", "cohort") else noisy for name in others}
    digests = {replace(begins[name], **{name: value}).digest for name, value in others.items()}
    assert len(digests | {TERMS.digest, noisy.digest}) == 2 + len(others)


def test_terms_travel_as_json():
    assert SumTerms.of(json.loads(json.dumps(TERMS.plain()))) == TERMS
    assert SumTerms.of(TERMS.plain()).digest == TERMS.digest
    assert replace(TERMS, bound=1).digest == replace(TERMS, bound=1.0).digest


@pytest.mark.parametrize("count", [3, 4, 5, 10, 30, 100])
def test_the_default_is_more_than_two_thirds(count):
    threshold = default_threshold(count)
    assert 3 * threshold > 2 * count >= 3 * (threshold - 1)
    assert replace(TERMS, cohort=tuple(range(count)), threshold=threshold).threshold <= count


def test_a_weight_is_a_word_more():
    assert (TERMS.words, replace(TERMS, max_weight=10).words) == (100, 101)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cohort": (0, 1), "threshold": 2}, "needs 3 clients or more; the cohort has 2"),
        ({"cohort": (0, 1, 2), "threshold": 2}, "a threshold of 2 does not go with 3 clients: .* and 3 or more"),
        (
            {"cohort": tuple(range(6)), "threshold": 3},
            "a threshold of 3 does not go with 6 clients: give more than half",
        ),
        ({"threshold": 5}, "a threshold of 5 does not go with 4 clients"),
        ({"cohort": (0, 2, 2, 9)}, "rising, each once"),
        ({"cohort": (2, 0, 5, 9)}, "rising, each once"),
        ({"cohort": (-1, 0, 5, 9)}, "numbers from 0"),
        ({"broadcast": b""}, "a digest of 0 bytes"),
        ({"round": 0}, "round 0"),
        ({"size": 0}, "0 values"),
        ({"run": "a\nb"}, "1 to 200 printable characters"),
        ({"run": ""}, "1 to 200 printable characters"),
        ({"bound": float("nan")}, "is none"),
        ({"max_weight": 2**24}, "lower the largest weight"),
        ({"noise": 1.0}, "for which 0 honest clients suffice does not go with 4 clients, of whom 3 make a sum: 2 to 3"),
        ({"noise": 1.0, "honest": 4}, "4 honest clients suffice does not go with 4 clients"),
        ({"noise": 1.0, "honest": 3, "max_weight": 2}, "noise goes with equal weights"),
        ({"noise": -1.0, "honest": 3}, "a standard deviation of noise is 0 or more"),
        ({"noise": 1e8, "honest": 3}, "lower privacy.noise"),
    ],
)
def test_what_are_no_terms(change, why):
    with pytest.raises(SecureSumError, match=why):
        replace(TERMS, **change)


@pytest.mark.parametrize("change", [{"broadcast": "xyz"}, {"cohort": 3}, {"round": "1"}, {"other": 1}])
def test_values_from_elsewhere(change):
    with pytest.raises(SecureSumError, match="no terms of a secure sum"):
        SumTerms.of({**TERMS.plain(), **change})
