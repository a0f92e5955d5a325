"""Noise of a private run, against the exact probabilities."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from scipy import stats

from promptfed.privacy.noise import (
    LARGEST_SIGMA,
    STEPS,
    NoiseStream,
    discrete_gaussian,
    gaussian,
    grid,
    noised_sum,
    release_stream,
)
from promptfed.privacy.secret_key import SecretKey

KEY = SecretKey(bytes(range(32)))


def masses(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers within 12 sigma, and the probability of each."""
    numbers = np.arange(-math.ceil(12 * sigma), math.ceil(12 * sigma) + 1)
    weights = np.exp(-(numbers**2) / (2 * sigma**2))
    return numbers, weights / weights.sum()


def test_the_same_key_and_labels_are_the_same_bytes() -> None:
    words = NoiseStream(KEY, "noise", 1, b"x").words(3000)
    assert np.array_equal(words, NoiseStream(KEY.reveal(), "noise", 1, b"x").words(3000))
    pieces = NoiseStream(KEY, "noise", 1, b"x")
    assert np.array_equal(words, np.concatenate([pieces.words(n) for n in (1, 0, 1023, 1024, 5, 947)]))


def test_the_stream_is_the_one_that_is_written_down() -> None:
    """A change of the derivation would make other noise for a run that goes on: spell it out once more."""
    import hmac

    name = b"promptfed noise 1" + b"s" + (5).to_bytes(8, "big") + b"noise" + b"i" + (1).to_bytes(8, "big") + b"7"
    subkey = hmac.new(bytes(range(32)), name, hashlib.sha256).digest()
    block = hashlib.shake_256(subkey + (1).to_bytes(8, "little")).digest(16)
    assert NoiseStream(KEY, "noise", 7).words(1026)[1024:].astype("<u8").tobytes() == block


@pytest.mark.parametrize(
    "labels", [("noise",), (1, "noise"), ("noise", "1"), ("noise", b"1"), ("noise", 1, ""), ("noise1",), ("nois", "e1")]
)
def test_other_labels_or_keys_are_other_noise(labels: tuple[str | int | bytes, ...]) -> None:
    words = NoiseStream(KEY, "noise", 1).words(64)
    assert not np.isin(NoiseStream(KEY, *labels).words(64), words).any()
    assert not np.isin(NoiseStream(SecretKey(bytes(32)), "noise", 1).words(64), words).any()


def test_words_are_uniform() -> None:
    """Chi-square over the 256 values of each byte, and no correlation of neighbours."""
    words = NoiseStream(KEY, "uniform").words(40_000)
    counts = np.bincount(words.view(np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > 0.001
    numbers = words / 2.0**64
    assert stats.kstest(numbers, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 4 / math.sqrt(len(numbers))


@pytest.mark.parametrize("bound", [2, 3, 100, 3 * 2**62])
def test_numbers_below_a_bound_are_uniform(bound: int) -> None:
    """``3 * 2^62`` rejects a quarter of the words; taken modulo it, the low third would come twice as often."""
    numbers = NoiseStream(KEY, "below", bound).below(np.full(20_000, bound, np.uint64))
    assert int(numbers.max()) < bound
    third = np.count_nonzero(numbers < np.uint64(-(-bound // 3)))
    share = -(-bound // 3) / bound
    assert abs(third - 20_000 * share) < 4 * math.sqrt(20_000 * share * (1 - share))
    assert not NoiseStream(KEY).below(np.ones(100, np.uint64)).any()


@pytest.mark.parametrize("sigma", [1, 2, 5, 37])
def test_the_discrete_gaussian_has_its_exact_probabilities(sigma: int) -> None:
    numbers, probabilities = masses(sigma)
    count = 100_000
    sample = discrete_gaussian(NoiseStream(KEY, "exact", sigma), count, sigma)
    observed = np.array([np.count_nonzero(sample == number) for number in numbers])
    common = probabilities * count >= 10
    cells = np.append(observed[common], count - observed[common].sum())
    expected = np.append(probabilities[common], 1 - probabilities[common].sum()) * count
    assert stats.chisquare(cells, expected).pvalue > 0.001
    variance = float((probabilities * numbers**2).sum())
    fourth = float((probabilities * numbers**4).sum())
    assert abs(np.mean(sample.astype(float) ** 2) - variance) < 3 * math.sqrt((fourth - variance**2) / count)
    assert abs(sample.mean()) < 3 * sigma / math.sqrt(count)


@pytest.mark.parametrize("sigma", [STEPS, LARGEST_SIGMA])
def test_at_the_sizes_in_use_it_is_a_gaussian(sigma: int) -> None:
    sample = discrete_gaussian(NoiseStream(KEY, "large", sigma), 100_000, sigma) / sigma
    assert stats.kstest(sample, "norm").pvalue > 0.001
    assert abs(np.mean(sample**2) - 1) < 3 * math.sqrt(2 / len(sample))
    assert abs(stats.kurtosis(sample)) < 3 * math.sqrt(24 / len(sample))
    assert abs(np.corrcoef(sample[1:], sample[:-1])[0, 1]) < 4 / math.sqrt(len(sample))
    low = (discrete_gaussian(NoiseStream(KEY, "low", sigma), 10_000, sigma) % 16).astype(int)
    assert stats.chisquare(np.bincount(low, minlength=16)).pvalue > 0.001  # the last bits too


@pytest.mark.parametrize("sigma", [0, 0.5, -1, LARGEST_SIGMA + 1])
def test_a_sigma_that_cannot_be_sampled_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="a whole number in 1"):
        discrete_gaussian(NoiseStream(KEY), 3, sigma)  # type: ignore[arg-type]


def test_none_is_none() -> None:
    assert discrete_gaussian(NoiseStream(KEY), 0, 5).shape == (0,)
    assert noised_sum(torch.zeros(0), 1.0, 1.0, NoiseStream(KEY)).shape == (0,)


def test_the_continuous_gaussian() -> None:
    sample = gaussian(NoiseStream(KEY, "continuous"), (200, 500), 3.0)
    assert (sample.shape, sample.dtype) == ((200, 500), torch.float64)
    assert stats.kstest(sample.flatten().numpy() / 3, "norm").pvalue > 0.001
    assert abs(float(sample.square().mean()) / 9 - 1) < 3 * math.sqrt(2 / sample.numel())
    assert torch.equal(sample, gaussian(NoiseStream(KEY, "continuous"), (200, 500), 3.0))


@pytest.mark.parametrize("count", [1, 100, 8192, 10**6])
@pytest.mark.parametrize("clip", [1e-6, 0.3, 1.0, 1e6])
@pytest.mark.parametrize("multiplier", [1e-9, 0.5, 1.0, 2.15, 8.0])
def test_the_noise_covers_the_rounded_sensitivity(count: int, clip: float, multiplier: float) -> None:
    step, sigma = grid(count, clip, multiplier)
    assert math.log2(step) == int(math.log2(step))
    assert STEPS <= sigma <= LARGEST_SIGMA
    assert sigma * step >= multiplier * (clip + step * math.sqrt(count))
    assert sigma * step <= multiplier * clip * (1 + 1e-6 + 2 * multiplier * math.sqrt(count) / STEPS)


def test_a_noised_sum_lies_on_the_grid_around_its_value() -> None:
    values = torch.linspace(-3, 3, 20_000, dtype=torch.float64)
    noised = noised_sum(values, 0.5, 1.2, NoiseStream(KEY, "sum"))
    step, _ = grid(20_000, 0.5, 1.2)
    assert noised.dtype == torch.float64
    assert torch.equal((noised / step).round() * step, noised)
    assert stats.kstest((noised - values).numpy() / 0.6, "norm").pvalue > 0.001
    assert abs(float((noised - values).square().mean()) / 0.36 - 1) < 3 * math.sqrt(2 / 20_000)
    assert torch.equal(noised, noised_sum(values, 0.5, 1.2, NoiseStream(KEY, "sum")))


def test_without_noise_to_speak_of_the_sum_is_what_it_was() -> None:
    values = torch.linspace(-1, 1, 1000, dtype=torch.float64)
    assert torch.allclose(noised_sum(values, 1e6, 1e-14, NoiseStream(KEY)), values, rtol=0, atol=1e-7)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_a_sum_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite number below"):
        noised_sum(torch.tensor([0.0, value], dtype=torch.float64), 1.0, 1.0, NoiseStream(KEY))


@pytest.mark.parametrize(
    ("clip", "multiplier"), [(0, 1), (1, 0), (-1, 1), (math.inf, 1), (1, math.inf), (math.nan, 1), (1, math.nan)]
)
def test_noise_needs_two_positive_numbers(clip: float, multiplier: float) -> None:
    with pytest.raises(ValueError, match="positive numbers"):
        noised_sum(torch.zeros(2), clip, multiplier, NoiseStream(KEY))


def test_too_many_values_are_refused() -> None:
    with pytest.raises(ValueError, match="too many for the grid"):
        grid(10**10, 1.0, 8.0)


def test_a_release_that_is_repeated_is_the_same_and_any_other_has_other_noise() -> None:
    values = torch.tensor([0.5, 0.0], dtype=torch.float64)
    first = release_stream(KEY, "promptfl", 3, values, 1.0, 2.0).words(64)
    same = torch.tensor([0.5, -0.0], dtype=torch.float64)
    assert np.array_equal(first, release_stream(KEY, "promptfl", 3, same, 1, 2).words(64))
    for other in (
        release_stream(KEY, "promptfl", 4, values, 1.0, 2.0),
        release_stream(KEY, "other", 3, values, 1.0, 2.0),
        release_stream(KEY, "promptfl", 3, values + 1e-15, 1.0, 2.0),
        release_stream(KEY, "promptfl", 3, values, 1.5, 2.0),
        release_stream(KEY, "promptfl", 3, values, 1.0, 2.5),
        release_stream(SecretKey(bytes(32)), "promptfl", 3, values, 1.0, 2.0),
    ):
        assert not np.isin(other.words(64), first).any()
