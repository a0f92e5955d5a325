"""Noise from the clients: the sum has the planned noise whoever is lost, and nobody gets the sum without it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest

pytest.importorskip("cryptography")

from promptfed.errors import SecureSumError
from promptfed.privacy.fixed_point import FixedPoint
from promptfed.privacy.noise_shares import MOST_SLACK, NoiseShares, check_shares, noise_words, shares_of, slack
from promptfed.privacy.noised_sums import NoisedMean
from promptfed.privacy.release import Spent
from promptfed.privacy.secret_key import SecretKey
from promptfed.privacy.simulated_sums import SimulatedSums
from promptfed.privacy_options import PrivacyOptions
from promptfed.prompt_state import PromptState
from promptfed.types import Update

KEY = SecretKey(bytes(range(32)))
CLIP, SIZE = 0.5, 4_000
SHARES = NoiseShares(1.5, 3)
SHARED = PromptState({"a": torch.zeros(SIZE)})


def changes(clients=5, left_out=()):
    stream = np.random.default_rng(clients)
    rows = stream.normal(size=(clients, SIZE))
    return {k: torch.from_numpy(0.4 * row / np.linalg.norm(row)) for k, row in enumerate(rows) if k not in left_out}


def noise_of(left_out=(), shares=SHARES, key=KEY, round=1, clients=5):
    """The noised sum minus the exact one, and the noised sum."""
    each = changes(clients, left_out)
    total = SimulatedSums(CLIP, shares, key)(each, range(clients), SHARED, round)
    assert total.clients == len(each)
    return (total.values - torch.stack(list(each.values())).sum(0)).numpy(), total.values


def assert_gaussian(noise, deviation):
    """A chi-square test of the variance, the mean, and the shape; each fails for good noise once in 10^5."""
    low, high = chi2.ppf([5e-6, 1 - 5e-6], len(noise))
    assert low < (noise**2).sum() / deviation**2 < high
    assert abs(noise.mean()) < 4.5 * deviation / math.sqrt(len(noise))
    assert kstest(noise / deviation, "norm").pvalue > 1e-5


# -------------------------------------------------------------------------------------------------- how much it is


@pytest.mark.parametrize("left_out", [(), (2,)])
@pytest.mark.parametrize("key", [KEY, None])
def test_the_unmasked_sum_is_the_exact_one_and_the_planned_noise(left_out, key):
    noise, _ = noise_of(left_out, key=key)
    present = 5 - len(left_out)
    assert_gaussian(noise, 1.5 * CLIP * math.sqrt(present / 3))


def test_as_many_honest_clients_as_are_planned_suffice():
    """Whoever knows the noise of all others takes it off, and has the noise that was promised."""
    fixed = FixedPoint(CLIP, 5, noise=SHARES.deviation)
    keys = [bytes([client] * 32) for client in range(5)]
    each = [noise_words(key, SIZE, fixed.noise_steps).view(np.int32).astype(np.float64) for key in keys]
    assert_gaussian(sum(each[:3]) * fixed.bound / fixed.largest, 1.5 * CLIP)
    assert abs(np.corrcoef(each) - np.eye(5)).max() < 5 / math.sqrt(SIZE), "clients' shares are independent"
    for clients, multiplier, honest in ((3, 0.3, 3), (10, 2.0, 7), (10, 2.0, 4), (100, 8.0, 67), (100, 0.1, 34)):
        shares = NoiseShares(multiplier, honest)
        fixed = FixedPoint(CLIP, clients, noise=shares.deviation)
        assert honest * fixed.noise_steps**2 >= (multiplier * fixed.largest) ** 2, "rounded up, never down"
        check_shares(8_192, fixed, honest)


def test_a_sum_has_room_for_its_noise():
    for clients, noise in ((3, 0.5), (10, 3.0), (100, 20.0), (3, 1e4)):
        fixed = FixedPoint(1.0, clients, noise=noise)
        assert clients * fixed.largest + 12 * fixed.noise_steps * math.sqrt(clients) < 2**31
        assert fixed.noise_steps <= 2**24
        assert fixed.fraction_bits <= FixedPoint(1.0, clients).fraction_bits
    noisy, plain = FixedPoint(1.0, 3, noise=2.0), FixedPoint(1.0, 3)
    assert noisy.decode(np.array([5 * noisy.largest], dtype=np.uint32), 3) == pytest.approx([5.0])
    with pytest.raises(SecureSumError, match="masks are left in it"):
        plain.decode(np.array([plain.largest * 7 // 2], dtype=np.uint32), 3)


# ---------------------------------------------------------------------------------------------------- one release


def test_a_round_that_is_repeated_is_the_same_release_to_the_bit():
    (_, first), (_, again) = noise_of(), noise_of()
    assert first.equal(again)
    (_, other_key), (_, other_round) = noise_of(key=SecretKey(bytes(32))), noise_of(round=2)
    assert (first - other_key).norm() > 1
    assert (first - other_round).norm() > 1


def test_two_sums_of_which_one_lacks_a_client_have_independent_noise():
    """With the same noise of the others, their difference would have one client's share alone."""
    (noise, _), (fewer, _) = noise_of(), noise_of(left_out=(4,))
    assert_gaussian(noise - fewer, 1.5 * CLIP * math.sqrt((5 + 4) / 3))


def test_a_round_is_charged_before_its_sum_and_once():
    spent = []
    updates = [Update(k, PromptState({"a": change.float()}), 1, 0.0, 0.0) for k, change in changes().items()]

    def sums(*given):
        assert spent, "the account knows of it before anybody has the sum"
        return SimulatedSums(CLIP, SHARES, KEY)(*given)

    def mean(present, account=spent.append):
        release = NoisedMean(KEY, CLIP, SHARES, range(5), sums, account)
        return release.mean(SHARED, ["a"], present, range(5), 1)

    first = mean(updates)
    assert mean(updates).shared == first.shared
    assert spent[0] == spent[1] == Spent(1, spent[0].mark, 1.5, 1.0)
    assert first.shared["a"].std().item() * 5 == pytest.approx(1.5 * CLIP * math.sqrt(5 / 3), rel=0.1)
    mean(updates[:4])
    assert spent[2].mark != spent[0].mark
    with pytest.raises(SecureSumError, match="2 of 5 clients are left, and it needs 4"):
        mean(updates[:2])
    with pytest.raises(SecureSumError, match="no client sent a change"):
        mean([])
    assert len(spent) == 5, "a round without a sum is charged too"

    def refuse(spent):
        raise RuntimeError("one too many")

    with pytest.raises(RuntimeError, match="one too many"):
        mean(updates, refuse)


# ---------------------------------------------------------------------------------------- how near to one Gaussian


def discrete(sigma, places):
    weights = np.exp(-(places**2) / (2 * sigma**2))
    return weights / weights.sum()


def test_the_sum_of_shares_is_within_the_bound_of_one_discrete_gaussian():
    """Against the exact distribution, by convolution; of shares so small that the difference can be seen."""
    sigma, places = 0.6, np.arange(-60, 61)
    share = discrete(sigma, places)
    of_three = np.convolve(np.convolve(share, share), share)[120:-120]
    near = np.abs(places) < 6
    distance = np.abs(np.log(of_three[near] / discrete(sigma * math.sqrt(3), places)[near])).max()
    tau = 10 * sum(math.exp(-2 * math.pi**2 * sigma**2 * k / (k + 1)) for k in (1, 2))
    assert 1e-4 < distance <= tau < slack(1, 0.6, 3)


def test_a_discrete_gaussian_is_within_the_bound_of_the_rounded_continuous_one():
    from scipy.special import log_ndtr

    sigma, places = 20.0, np.arange(0, 241, dtype=np.float64)  # the upper half, up to 12 sigma
    upper, lower = -(places - 0.5) / sigma, -(places + 0.5) / sigma
    cells = log_ndtr(upper) + np.log1p(-np.exp(log_ndtr(lower) - log_ndtr(upper)))
    exact = -(places**2) / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi))
    distance = np.abs(cells - exact).max()
    assert distance < slack(1, 20, 1) / 2 < 1.2 * distance


def test_slack_is_nil_for_shares_of_usual_runs():
    assert slack(8_192, 2**22, 7) < 1e-9
    assert slack(500_000, 2**21, 67) < MOST_SLACK
    assert slack(2, 10, 1) == pytest.approx(2 * 2 * 145 / 2_400)


@pytest.mark.parametrize(("multiplier", "size"), [(1e-4, 8_192), (1.0, 2**40)])
def test_noise_below_its_grid_or_too_many_values_are_refused(multiplier, size):
    shares = NoiseShares(multiplier, 7)
    with pytest.raises(SecureSumError, match=r"raise privacy.noise, or send fewer values"):
        check_shares(size, FixedPoint(1.0, 10, noise=shares.deviation), 7)


def test_shares_follow_the_options():
    terms = {"dp": "client", "noise": 1.5, "secure_aggregation": True}
    assert shares_of(PrivacyOptions(**terms), 10) == NoiseShares()
    assert shares_of(PrivacyOptions(**terms, noise_at="clients"), 10) == NoiseShares(1.5, 7)
    assert shares_of(PrivacyOptions(**terms, noise_at="clients", honest=4), 10) == NoiseShares(1.5, 4)
    assert NoiseShares(1.5, 4).deviation == 0.75
