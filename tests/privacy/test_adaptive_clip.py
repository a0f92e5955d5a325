"""The clip that follows a quantile: its formulas by hand, what one client can change, and what both sums spend."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.privacy.accountant import Release, epsilon
from promptfed.privacy.adaptive_clip import CLIP, AdaptiveMean, bit_noise, change_multiplier, next_clip
from promptfed.privacy.release import flattened
from promptfed.privacy.secret_key import SecretKey
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Update

KEY = SecretKey(bytes(range(32)))
SHARED = PromptState({"a": torch.zeros(2)})


def update(client: int, *values: float) -> Update:
    return Update(client, PromptState({"a": torch.tensor(values)}), 1, 0.0, 0.0)


def release_of(clients: int = 4, multiplier: float = 0.0, **options) -> AdaptiveMean:
    return AdaptiveMean(options.pop("key", KEY), options.pop("clip", 1.0), multiplier, range(clients), **options)


def released(release: AdaptiveMean, updates: list[Update], memory: PromptState = NO_PROMPT, round: int = 1):
    found, memory = release.released(SHARED, ["a"], updates, [u.client for u in updates], round, memory)
    return flattened(found.shared, ["a"]), memory[CLIP].item()


def test_the_clip_goes_where_the_quantile_is():
    lengths = [update(0, 0.5, 0), update(1, 0.9, 0), update(2, 0.99, 0), update(3, 3.0, 4.0)]
    mean, clip = released(release_of(), lengths)
    assert mean.tolist() == pytest.approx([(0.5 + 0.9 + 0.99 + 0.6) / 4, 0.8 / 4])
    assert clip == pytest.approx(math.exp(-0.2 * (3 / 4 - 0.5))), "three of four are within 1"
    _, smaller = released(release_of(quantile=0.9, rate=1.0), lengths)
    assert smaller == pytest.approx(math.exp(0.9 - 0.75))
    _, again = released(release_of(), lengths, PromptState({CLIP: torch.tensor(0.7)}))
    assert again == pytest.approx(0.7 * math.exp(-0.2 * (1 / 4 - 0.5)))


def test_it_settles_at_the_median_of_the_lengths():
    release = release_of(clients=101)
    memory = release.start()
    updates = [update(k, 0.1 * k, 0.0) for k in range(101)]
    for round in range(1, 80):
        _, memory = release.released(SHARED, ["a"], updates, range(101), round, memory)
    assert memory[CLIP].item() == pytest.approx(5.0, rel=0.1)


def test_the_changes_get_so_much_more_noise_that_the_pair_spends_what_was_asked_for():
    z, sigma_b = 2.4288, bit_noise(100)
    assert sigma_b == 5
    changes = change_multiplier(z, sigma_b)
    assert changes == pytest.approx(1 / math.sqrt(1 / 2.4288**2 - 1 / 100), rel=1e-12)
    assert changes**-2 + (2 * sigma_b) ** -2 == pytest.approx(z**-2)
    together = epsilon([Release(changes), Release(2 * sigma_b)], 1e-4)
    assert together == pytest.approx(epsilon([Release(z)], 1e-4), rel=1e-6)
    assert change_multiplier(1.0, bit_noise(100)) == pytest.approx(1.005, abs=1e-3), "free, with a hundred"
    assert change_multiplier(0.0, sigma_b) == 0


@pytest.mark.parametrize(("clients", "z"), [(10, 1.0), (10, 2.0), (20, 2.0)])
def test_bits_that_spend_all_by_themselves_are_refused(clients, z):
    with pytest.raises(ConfigError, match=r"privacy\.clip=adaptive does not go with") as error:
        release_of(clients, z)
    assert "\n" not in str(error.value)
    assert change_multiplier(z, bit_noise(10 * z * 1.01)) > z


def test_one_client_changes_each_sum_by_its_sensitivity():
    """Without noise: the changes by C, the bits by one half, whatever the client sends; together that is what z is."""
    rng = np.random.default_rng(0)
    for scale in (0.01, 0.9, 1.0, 1.1, 1e6):
        others = [update(k, *rng.normal(size=2)) for k in range(3)]
        direction = rng.normal(size=2)
        extra = update(3, *(scale * direction / np.linalg.norm(direction)))
        (without, low), (with_it, high) = (released(release_of(), some) for some in (others, [*others, extra]))
        assert (with_it - without).norm().item() * 4 <= 1 + 1e-6
        assert abs(math.log(low) - math.log(high)) == pytest.approx(0.2 * 0.5 / 4, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_client_that_is_not_finite_is_a_client_that_is_absent(bad):
    sound = [update(0, 0.5, 0.0), update(1, 5.0, 0.0)]
    (one, clip), (other, same) = (released(release_of(), some) for some in (sound, [*sound, update(2, bad, 0.0)]))
    assert one.equal(other)
    assert clip == same


@pytest.mark.slow
def test_both_noises_are_as_wide_as_they_are_said_to_be():
    """Audit of the mechanism: 2,000 releases of other rounds (so other noise), each sum against its normal curve."""
    from scipy import stats

    clients, z, rate = 100, 2.0, 0.01
    release = release_of(clients, z, rate=rate)
    found = [released(release, [update(0, 0.6, 0.0)], round=round) for round in range(2_000)]
    changes = np.array([mean.numpy() for mean, _ in found]) * clients
    halves = np.array([-math.log(clip) / rate for _, clip in found]) * clients
    assert release.change_multiplier == pytest.approx((1 / 4 - 1 / 100) ** -0.5)
    for values, mean, std in (
        (changes[:, 0], 0.6, release.change_multiplier),
        (changes[:, 1], 0.0, release.change_multiplier),
        (halves, 0.5, release.bit_noise),
    ):
        assert stats.kstest((values - mean) / std, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(changes[:, 0], halves)[0, 1]) < 0.08


def test_a_repeated_round_is_the_same_release_and_another_clip_another():
    spent: list = []
    release = release_of(100, 1.0, account=spent.append)
    updates = [update(0, 0.5, 0.0)]
    first, again = released(release, updates), released(release, updates)
    assert first[0].equal(again[0])
    assert first[1] == again[1]
    assert spent[0] == spent[1]
    assert (spent[0].multiplier, spent[0].clip) == (1.0, 1.0)
    other = released(release, updates, PromptState({CLIP: torch.tensor(0.75)}))
    assert not other[0].equal(first[0])
    assert spent[2].mark != spent[0].mark
    assert spent[2].clip == 0.75


def test_nobody_at_all_still_moves_by_noise():
    mean, clip = released(release_of(100, 1.0), [])
    assert mean.norm() > 0
    assert clip != 1.0


def test_the_clip_stays_within_bounds():
    assert next_clip(2.0, 0.0, 0.5, 0.2) == pytest.approx(2 * math.exp(0.1))
    release = release_of(rate=10.0, quantile=0.01)
    memory = release.start()
    for round in range(1, 60):
        _, memory = release.released(SHARED, ["a"], [update(k, 0.0, 0.0) for k in range(4)], range(4), round, memory)
    assert memory[CLIP].item() == pytest.approx(1e-6)
