"""The accountant against a second one, the exact Gaussian, and figures computed once by hand."""

from __future__ import annotations

import builtins
import logging
import math
import subprocess
import sys
from typing import Any

import pytest

from promptfed.errors import ConfigError
from promptfed.privacy.accountant import (
    COARSE_INTERVAL,
    Release,
    _epsilon,
    check_delta,
    default_delta,
    epsilon,
    epsilon_rdp,
    noise_multiplier,
)

dp = pytest.importorskip("dp_accounting", reason="needs pip install 'promptfed[dp]'")

ROWS = [
    (1, 0.1, 50, 1e-5, 5.148, 5.885, 7.186),
    (1, 0.01, 1000, 1e-5, 1.828, 2.101, 2.843),
    (0.8, 0.02, 200, 1e-5, 3.263, 3.925, 3.998),
    (2, 0.3, 30, 1e-3, 2.822, 3.271, 5.721),
    (0.5, 0.1, 50, 1e-5, 22.623, 25.88, 25.53),
    (8, 1, 50, 1e-5, 3.797, 4.106, 8.596),
    (4, 1, 20, 1e-3, 3.605, 4.053, 8.787),
]
"""Noise multiplier, probability, releases, delta -> epsilon by PLD, by Renyi DP, by PLD under replace-one."""


@pytest.mark.parametrize(("multiplier", "probability", "count", "delta", "pld", "rdp", "replace"), ROWS)
def test_epsilon_of_the_recorded_rows(
    multiplier: float, probability: float, count: int, delta: float, pld: float, rdp: float, replace: float
) -> None:
    releases = (Release(multiplier, probability, count),)
    coarse = _epsilon(releases, delta, COARSE_INTERVAL)
    assert coarse == pytest.approx(pld, rel=0.01)
    bound = epsilon_rdp(releases, delta)
    assert bound == pytest.approx(rdp, rel=0.01)
    assert coarse <= bound <= 1.25 * coarse


@pytest.mark.slow
@pytest.mark.parametrize(("multiplier", "probability", "count", "delta", "pld", "rdp", "replace"), ROWS)
def test_a_second_accountant_agrees(
    multiplier: float, probability: float, count: int, delta: float, pld: float, rdp: float, replace: float
) -> None:
    releases = (Release(multiplier, probability, count),)
    spent = epsilon(releases, delta)
    assert spent == pytest.approx(pld, rel=0.001)
    assert spent <= _epsilon(releases, delta, COARSE_INTERVAL) * (1 + 1e-9)
    assert epsilon(releases, delta, "replace-one") == pytest.approx(replace, rel=0.01)
    accountants = pytest.importorskip("opacus.accountants")
    prv = accountants.PRVAccountant()
    prv.history = [(multiplier, probability, count)]
    assert spent == pytest.approx(prv.get_epsilon(delta, eps_error=0.001), rel=0.01)


@pytest.mark.parametrize(("multiplier", "count", "delta"), [(8, 50, 1e-5), (4, 20, 1e-3), (0.7, 1, 1e-6)])
def test_without_sampling_it_is_the_gaussian_mechanism(multiplier: float, count: int, delta: float) -> None:
    """The curve of one Gaussian of mu = sqrt(T) / z (Balle and Wang 2018), written out here."""
    spent, mu = epsilon((Release(multiplier, 1.0, count),), delta), math.sqrt(count) / multiplier

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    assert phi(mu / 2 - spent / mu) - math.exp(spent) * phi(-mu / 2 - spent / mu) == pytest.approx(delta, rel=1e-3)
    assert spent == pytest.approx(dp.get_epsilon_gaussian(multiplier / math.sqrt(count), delta), abs=1e-3)
    nearly = Release(multiplier, 1 - 1e-12, count)  # by PLD
    assert _epsilon((nearly,), delta, COARSE_INTERVAL) == pytest.approx(spent, rel=0.01)


@pytest.mark.parametrize(
    ("target", "delta", "probability", "count", "multiplier"),
    [
        (8, 1e-3, 1, 20, 2.15), (2, 1e-3, 1, 20, 6.46), (8, 1e-4, 1, 20, 2.43), (2, 1e-4, 1, 20, 7.76),
        (8, 1e-5, 0.1, 50, 0.80), (2, 1e-5, 0.1, 50, 1.75), (2, 1e-6, 0.02, 100, 0.96),
    ],
)  # fmt: skip
def test_calibrated_noise(target: float, delta: float, probability: float, count: int, multiplier: float) -> None:
    found = noise_multiplier(target, delta, probability, count)
    assert found == pytest.approx(multiplier, abs=0.01)
    spent = _epsilon((Release(found, probability, count),), delta, COARSE_INTERVAL)
    assert 0.998 * target <= spent <= target


def test_upstream_takes_half_the_sensitivity_under_replace_one() -> None:
    """Renyi DP is a bound from above, and here lies below the exact value: google/differential-privacy#378.

    When this fails, dp-accounting has mended it: then ``epsilon_rdp`` may take an adjacency.
    """
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
    accountant.compose(dp.SampledWithoutReplacementDpEvent(100, 100, dp.GaussianDpEvent(4)), 20)
    exact = dp.get_epsilon_gaussian(4 / 2 / math.sqrt(20), 1e-3)
    assert exact == pytest.approx(epsilon((Release(4, 1, 20),), 1e-3, "replace-one"), abs=1e-3)
    assert accountant.get_epsilon(1e-3) < exact


def test_releases_add_up() -> None:
    assert epsilon((), 1e-5) == epsilon_rdp((), 1e-5) == 0.0
    assert epsilon((Release(4.0, 1.0, 20),), 1e-3) == pytest.approx(3.605, abs=0.001)
    assert epsilon((Release(8.0, 1.0, 10), Release(4.0, 1.0, 10)), 1e-5) == pytest.approx(
        dp.get_epsilon_gaussian(1 / math.sqrt(10 / 64 + 10 / 16), 1e-5)
    )


@pytest.mark.parametrize("release", [(0, 1, 1), (math.inf, 1, 1), (math.nan, 1, 1), (1, 0, 1), (1, 1.1, 1), (1, 1, 0)])
def test_an_impossible_release_is_refused(release: tuple[float, float, int]) -> None:
    with pytest.raises(ConfigError, match=r"^a (noise multiplier|probability|number)"):
        Release(*release)


def test_delta_is_less_than_half_a_client() -> None:
    check_delta(0.0025, 200)
    for delta in (0.00251, 0.0, -1e-5, math.nan):
        with pytest.raises(ConfigError, match=r"does not protect 200 clients: .* = 0\.0025; 5e-05 is usual"):
            check_delta(delta, 200)
    assert [default_delta(clients) for clients in (1, 10, 100, 10_000)] == [1e-3, 1e-3, 1e-4, 1e-6]
    for clients in (1, 2, 5, 10_000):
        check_delta(default_delta(clients), clients)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
def test_an_epsilon_needs_a_delta(delta: float) -> None:
    with pytest.raises(ConfigError, match="delta lies between 0 and 1"):
        epsilon((Release(1.0),), delta)


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan])
def test_a_target_is_a_positive_number(target: float) -> None:
    with pytest.raises(ConfigError, match="epsilon is a positive number"):
        noise_multiplier(target, 1e-5, 0.5, 3)


def test_absl_says_nothing_and_is_left_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    level = logging.getLogger("absl").level
    epsilon_rdp((Release(0.5, 0.1, 50),), 1e-5)  # warns, of orders that do not converge
    assert logging.getLogger("absl").level == level
    assert capfd.readouterr() == ("", "")


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *others: Any, **more: Any) -> Any:
        if name.startswith("dp_accounting"):
            raise ImportError(name)
        return real(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"not installed: pip install 'promptfed\[dp\]'$"):
        epsilon((Release(1.3, 1.0, 7),), 1e-4)


def test_the_package_is_imported_at_need() -> None:
    code = "import sys, promptfed.privacy.accountant; sys.exit('dp_accounting' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
