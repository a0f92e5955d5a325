"""The weighted mean: by hand, invariant where it must be, and without drift."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from promptfed.aggregators.base import AGGREGATORS
from promptfed.aggregators.mean import weighted_mean
from promptfed.config import validate
from promptfed.errors import ConfigError
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Update


def state(*values: float) -> PromptState:
    return PromptState({"ctx": torch.tensor(values)})


def merge(name: str, prompts: Sequence[PromptState], samples: Sequence[int]) -> PromptState:
    updates = [Update(i, p, n, 0.0, 0.0) for i, (p, n) in enumerate(zip(prompts, samples, strict=True))]
    kind = AGGREGATORS[name]
    merged, server = kind(validate(kind.Config, {}, "option")).apply(NO_PROMPT, updates, NO_PROMPT)
    assert server == NO_PROMPT
    return merged


def test_weighted_by_samples_by_hand() -> None:
    assert merge("mean", [state(1, 0), state(5, 4)], [3, 1]) == state(2, 1)


def test_uniform_ignores_samples_by_hand() -> None:
    assert merge("uniform", [state(1, 0), state(5, 4)], [3, 1]) == state(3, 2)


def test_several_tensors_of_any_shape() -> None:
    a = PromptState({"s": torch.tensor(1.0), "m": torch.ones(2, 1, 2), "e": torch.zeros(0, 3)})
    assert weighted_mean([a, 3 * a], [1, 1]) == 2 * a


def test_nothing_shared_stays_nothing() -> None:
    assert merge("mean", [NO_PROMPT, NO_PROMPT], [4, 5]) == NO_PROMPT


weights = st.lists(st.integers(1, 1000), min_size=1, max_size=6)


@given(weights, st.floats(width=32, min_value=-1e6, max_value=1e6))
def test_the_mean_of_equals_is_that_one(samples: list[int], value: float) -> None:
    np.testing.assert_allclose(
        merge("mean", [state(value, -value)] * len(samples), samples)["ctx"], [value, -value], rtol=1e-7
    )


@given(weights, st.integers(2, 50), st.randoms(use_true_random=False))
def test_scale_of_weights_and_order_of_clients_do_not_matter(samples: list[int], factor: int, rng: object) -> None:
    prompts = [state(i, i * i - 3.5) for i in range(len(samples))]
    merged = merge("mean", prompts, samples)["ctx"]
    scaled = merge("mean", prompts, [factor * n for n in samples])["ctx"]
    order = list(range(len(samples)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    turned = merge("mean", [prompts[i] for i in order], [samples[i] for i in order])["ctx"]
    np.testing.assert_allclose(scaled, merged, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(turned, merged, rtol=1e-6, atol=1e-6)
    expected = np.average([p["ctx"].numpy() for p in prompts], axis=0, weights=samples)
    np.testing.assert_allclose(merged, expected, rtol=1e-6, atol=1e-6)


@given(weights)
def test_the_mean_lies_between_its_parts(samples: list[int]) -> None:
    merged = merge("mean", [state(i) for i in range(len(samples))], samples)["ctx"].item()
    assert 0 <= merged <= len(samples) - 1


def test_sums_are_wider_than_float32() -> None:
    # In float32, 1e8 + 1 is 1e8: the small clients would vanish.
    merged = weighted_mean([state(1e8), state(1.0), state(-1e8)], [1, 1, 1])
    assert merged["ctx"].item() == pytest.approx(1 / 3)


def test_1280_averages_do_not_drift() -> None:
    start = torch.randn(64, generator=torch.Generator().manual_seed(0))
    prompt = PromptState({"ctx": start})
    for _ in range(1280):
        prompt = weighted_mean([prompt] * 8, [17, 3, 5, 8, 1, 9, 40, 11])
    assert torch.equal(prompt["ctx"], start)


def test_prompts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'ctx' is \(1,\) and \(2,\)"):
        weighted_mean([state(1), state(1, 2)], [1, 1])


def test_unknown_options_are_refused() -> None:
    kind = AGGREGATORS["mean"]
    with pytest.raises(ConfigError, match="unknown aggregator option 'momentum'"):
        validate(kind.Config, {"momentum": 0.9}, "aggregator option")
