"""Audit of the mechanism alone: can somebody tell from 20,000 releases whether a worst-case client took part?

Two samples of a release, with and without the client, projected on its direction; Clopper-Pearson bounds of both error
rates give a lower bound of mu, and that one of epsilon. A mechanism that does what it says stays below its epsilon, and
close to it; each of five mutants is caught above it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats

from promptfed.privacy.noise import NoiseStream, grid, noised_sum, release_stream
from promptfed.privacy.secret_key import SecretKey

dp = pytest.importorskip("dp_accounting", reason="needs pip install 'promptfed[dp]'")

KEY = SecretKey(bytes(range(32)))
"""A fixed key: the audits fail for the code, not by chance."""
RUNS, CLIP, DELTA = 20_000, 0.7, 1e-5
OTHERS = 10


def lower_bound(without: np.ndarray, with_client: np.ndarray) -> float:
    """Epsilon that the guess "took part above the middle" proves, at 97.5 % for each of its two error rates."""
    middle = (np.mean(without) + np.mean(with_client)) / 2
    sign = 1 if np.mean(with_client) > np.mean(without) else -1
    false_alarms = np.count_nonzero(sign * (without - middle) > 0)
    misses = np.count_nonzero(sign * (with_client - middle) <= 0)
    rates = [stats.beta.ppf(0.975, errors + 1, RUNS - errors) for errors in (false_alarms, misses)]
    mu = stats.norm.ppf(1 - rates[0]) - stats.norm.ppf(rates[1])
    return float(dp.get_epsilon_gaussian(1 / mu, DELTA)) if mu > 0 else 0.0


class Mechanism(NamedTuple):
    """A DP mean over clients, each coordinate a release of its own; flags break it."""

    multiplier: float
    is_clipped: bool = True
    is_clipped_after_the_mean: bool = False
    divides_by_those_there: bool = False
    noise_share: float = 1.0
    repeats_noise: bool = False

    def release(self, changes: torch.Tensor, round: int) -> np.ndarray:
        """``changes`` ``(clients, runs)`` -> the noised mean ``(runs,)``."""
        expected = OTHERS + 0.5  # a public constant
        if self.is_clipped:
            changes = changes.clamp(-CLIP, CLIP)
        total = changes.sum(0)
        if self.is_clipped_after_the_mean:
            total = (total / expected).clamp(-CLIP, CLIP) * expected
        multiplier = self.multiplier * self.noise_share
        stream = release_stream(KEY, "audit", round, total, CLIP, multiplier)
        if self.repeats_noise:
            stream = NoiseStream(KEY, "audit")
        noised = noised_sum(total, CLIP, multiplier, stream).numpy()
        return noised / (len(changes) if self.divides_by_those_there else expected)

    def audit(self, client: float, others: float) -> float:
        """Audit one release; the worst case for a broken mean is a ``client`` against the direction of all others."""
        without = torch.full((OTHERS, RUNS), others, dtype=torch.float64)
        with_client = torch.cat([without, torch.full((1, RUNS), client, dtype=torch.float64)])
        return lower_bound(self.release(without, 1), self.release(with_client, 2))

    def audit_again(self) -> float:
        """Audit a round that is run twice, the second time after the client was lost: two releases."""
        without = torch.zeros((OTHERS, RUNS), dtype=torch.float64)
        with_client = torch.cat([without, torch.full((1, RUNS), CLIP, dtype=torch.float64)])
        outside = self.release(without, 1) - self.release(without, 2)
        inside = self.release(with_client, 3) - self.release(without, 4)
        return lower_bound(outside, inside)


CASES = [(100.0, 0.0), (-100.0, CLIP), (CLIP, 0.0), (-CLIP, CLIP)]


@pytest.mark.parametrize("target", [1.0, 4.0])
def test_the_mechanism_spends_what_it_says(target: float) -> None:
    sound = Mechanism(dp.get_sigma_gaussian(target, DELTA))
    for case in CASES:
        assert 0.8 * target <= sound.audit(*case) <= target, case
    assert 0 < sound.audit_again() <= target


@pytest.mark.parametrize("target", [1.0, 4.0])
@pytest.mark.parametrize(
    "mutation",
    [
        {"is_clipped": False},
        {"is_clipped": False, "is_clipped_after_the_mean": True},
        {"divides_by_those_there": True},
        {"noise_share": 0.5},
    ],
)
def test_a_broken_mechanism_is_caught(target: float, mutation: dict[str, float]) -> None:
    broken = Mechanism(dp.get_sigma_gaussian(target, DELTA))._replace(**mutation)
    assert max(broken.audit(*case) for case in CASES) > 1.2 * target


@pytest.mark.parametrize("target", [1.0, 4.0])
def test_noise_that_repeats_itself_is_caught(target: float) -> None:
    assert Mechanism(dp.get_sigma_gaussian(target, DELTA), repeats_noise=True).audit_again() > 1.5 * target


@pytest.mark.slow
def test_twenty_thousand_calls_spend_what_they_say() -> None:
    """As above, by as many releases of a vector of three, each with a stream of its own."""
    target = 4.0
    multiplier = dp.get_sigma_gaussian(target, DELTA)
    change = torch.tensor([0.6, -0.64, 0.48], dtype=torch.float64) * CLIP
    sums = {"without": torch.zeros(3, dtype=torch.float64), "with": change}
    samples = {}
    for name, total in sums.items():
        streams = (release_stream(KEY, name, run, total, CLIP, multiplier) for run in range(RUNS))
        samples[name] = np.array([float(noised_sum(total, CLIP, multiplier, s) @ change) for s in streams])
    assert 0.8 * target <= lower_bound(samples["without"], samples["with"]) <= target


def test_rounding_stays_within_the_sensitivity() -> None:
    """The same noise on two neighbouring sums shows their distance after rounding, at its worst: half a step each."""
    count, multiplier = 64, 2.0
    step, sigma = grid(count, CLIP, multiplier)
    random = torch.Generator().manual_seed(1)
    for direction in (torch.ones(count), torch.randn(count, generator=random), torch.eye(count)[0]):
        change = direction.double() * (CLIP / direction.double().norm())
        for sign in (1, -1):
            total = (torch.arange(count, dtype=torch.float64) + 0.5 - 1e-9 * sign) * step
            near, far = (noised_sum(x, CLIP, multiplier, NoiseStream(KEY, "x")) for x in (total, total + sign * change))
            assert (far - near).norm() <= CLIP + step * math.sqrt(count)
            assert (far - near).norm() <= sigma * step / multiplier
