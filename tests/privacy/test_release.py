"""Releases: no client changes the sum by more than the clip, whatever it sends, and nobody's absence shows."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfed.errors import SecureSumError
from promptfed.privacy.release import PrivateMean, SumMean, flattened
from promptfed.privacy.secret_key import SecretKey
from promptfed.privacy.simulated_sums import SimulatedSums
from promptfed.prompt_state import PromptState
from promptfed.types import Update

KEY = SecretKey(bytes(range(32)))
SHARED = PromptState({"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([0.5])})
NAMES = ["a", "b"]


def update(client: int, a: list[float], b: list[float], samples: int = 1) -> Update:
    return Update(client, PromptState({"a": torch.tensor([a]), "b": torch.tensor(b)}), samples, 0.0, 0.0)


def plain(changes: dict[int, torch.Tensor]) -> torch.Tensor:
    return sum(changes.values(), torch.zeros(3, dtype=torch.float64))


def released(updates: list[Update], multiplier: float = 0.0, clients: int = 4, **options) -> torch.Tensor:
    release = PrivateMean(KEY, options.pop("clip", 1.0), multiplier, range(clients), **options)
    mean = release.mean(SHARED, NAMES, updates, [u.client for u in updates], 1)
    return flattened(mean.shared, NAMES) - flattened(SHARED, NAMES)


def test_changes_are_clipped_together_and_divided_by_all_clients():
    long, short = update(0, [4.0, 6.0], [0.5]), update(1, [1.0, 2.3], [0.9])  # changes (3, 4, 0) and (0, .3, .4)
    expected = torch.tensor([0.6, 0.8 + 0.3, 0.4], dtype=torch.float64) / 4
    torch.testing.assert_close(released([long, short]), expected, atol=1e-6, rtol=0)


def test_sample_counts_do_not_weigh():
    updates = [update(0, [1.1, 2.0], [0.5]), update(1, [1.0, 2.2], [0.5])]
    heavy = [updates[0], update(1, [1.0, 2.2], [0.5], samples=10**9)]
    assert released(updates).equal(released(heavy))


def test_a_client_that_is_not_finite_is_a_client_that_is_absent():
    sound = update(0, [1.1, 2.0], [0.5])
    for broken in (math.nan, math.inf, -math.inf):
        bad = update(1, [broken, 2.0], [0.5])
        assert released([sound, bad]).equal(released([sound]))
    assert released([sound], clients=4).equal(released([sound], clients=2) / 2), "the denominator is that of all"


def test_nobody_at_all_still_releases_noise():
    noise = released([], multiplier=2.0)
    assert noise.norm() > 0
    assert released([]).norm() == 0


numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers), max_size=4), st.tuples(numbers, numbers, numbers),
       st.floats(0.01, 100))  # fmt: skip
def test_one_client_more_changes_the_sum_by_the_clip_at_most(others, extra, clip):
    updates = [update(k, [x, y], [z]) for k, (x, y, z) in enumerate(others)]
    release = PrivateMean(KEY, clip, 0.0, range(9))
    without = plain(release.changes(SHARED, NAMES, updates))
    with_it = plain(release.changes(SHARED, NAMES, [*updates, update(8, [extra[0], extra[1]], [extra[2]])]))
    assert (with_it - without).norm().item() <= clip * (1 + 1e-6)


def test_the_same_round_with_the_same_updates_is_the_same_release():
    spent = []
    updates = [update(0, [1.1, 2.0], [0.5])]
    first = released(updates, multiplier=1.0, account=spent.append)
    assert released(updates, multiplier=1.0, account=spent.append).equal(first)
    assert spent[0] == spent[1]
    others = released([update(0, [1.2, 2.0], [0.5])], multiplier=1.0, account=spent.append)
    assert spent[2].mark != spent[0].mark
    noise, other_noise = first - released(updates), others - released([update(0, [1.2, 2.0], [0.5])])
    assert (noise - other_noise).norm() > 1e-3, "another sum has other noise"


def test_noise_is_accounted_for_before_it_is_made():
    def refuse(spent):
        raise RuntimeError("one too many")

    with pytest.raises(RuntimeError, match="one too many"):
        released([], multiplier=1.0, account=refuse)


def test_noise_has_the_multiplier_times_the_clip():
    wide = PromptState({"a": torch.zeros(4000)})
    release = PrivateMean(KEY, 0.5, 3.0, range(10))
    mean = release.mean(wide, ["a"], [], [], 7)
    assert mean.shared["a"].std().item() * 10 == pytest.approx(1.5, rel=0.05)
    assert mean.client < 0
    assert mean.samples == 1


def test_secret_coins_choose_who_takes_part():
    release = PrivateMean(KEY, 1.0, 1.0, range(10, 1010), 0.1)
    cohorts = [release.participants(round) for round in range(1, 6)]
    assert all(70 < len(cohort) < 130 for cohort in cohorts)
    assert cohorts[0] != cohorts[1]
    assert release.participants(1) == cohorts[0] == sorted(cohorts[0])
    assert set(cohorts[0]) <= set(range(10, 1010))
    other = PrivateMean(SecretKey(bytes(32)), 1.0, 1.0, range(10, 1010), 0.1)
    assert other.participants(1) != cohorts[0]
    assert release.denominator == pytest.approx(100)
    assert PrivateMean(KEY, 1.0, 1.0, [3, 5]).participants(1) == [3, 5]


def test_a_secure_sum_is_the_plain_mean_of_those_who_answered():
    updates = [update(k, [1.0 + 0.1 * k, 2.0], [0.5 - 0.05 * k]) for k in range(4)]
    secure, plain_mean = SumMean(1.0, SimulatedSums(1.0)), SumMean(1.0)
    asked = range(5)  # client 4 does not answer
    one, other = (rule.mean(SHARED, NAMES, updates, asked, 1).shared for rule in (secure, plain_mean))
    assert (one - other).norm() < 1e-6
    torch.testing.assert_close(one["a"], torch.tensor([[1.15, 2.0]]))
    assert secure.sums.last.clients == (0, 1, 2, 3)


def test_too_few_for_a_secure_sum_is_no_sum_or_no_change():
    updates, asked = [update(0, [1.5, 2.0], [0.5])], [0, 1, 2, 3]
    with pytest.raises(SecureSumError, match="4"):
        SumMean(1.0, SimulatedSums(1.0)).mean(SHARED, NAMES, updates, asked, 1)
    private = PrivateMean(KEY, 1.0, 0.0, asked, sums=SimulatedSums(1.0)).mean(SHARED, NAMES, updates, asked, 1)
    assert private.shared == SHARED, "a private run says nothing of who answered"


def test_a_client_that_is_not_finite_does_not_cost_the_others_their_secure_sum():
    sound = [update(client, [1.1, 2.0], [0.5]) for client in (0, 1)]
    bad = update(2, [math.nan, 2.0], [0.5])
    secure = released([*sound, bad], clients=3, sums=SimulatedSums(1.0))
    torch.testing.assert_close(secure, released([*sound], clients=3), atol=1e-6, rtol=0)
    assert secure.norm() > 0.05, "of three, a sum needs three: two alone would have none, which shows that one is not"


def test_rounding_moves_no_change_beyond_the_clip():
    change = torch.ones(2_000).double() / math.sqrt(2_000)
    changes = {client: change if client == 0 else torch.zeros_like(change) for client in range(4)}
    for number in range(1, 6):
        assert SimulatedSums(1.0)(changes, [0, 1, 2, 3], SHARED, number).values.norm() <= 1.0
