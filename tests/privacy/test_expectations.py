"""What a plan says of an epsilon, against figures computed once by other code."""

from __future__ import annotations

import math

import pytest

from promptfed.errors import ConfigError
from promptfed.privacy import expectations
from promptfed.privacy.accountant import Release, epsilon
from promptfed.privacy.expectations import Plan, expectation, levers, plan

pytest.importorskip("dp_accounting", reason="needs pip install 'promptfed[dp]'")

TABLE = [
    (10, 1, 20, 1e-3, 8, 2.15, (2.15, 4.8, 9.7, 19)),
    (10, 1, 20, 1e-3, 2, 6.46, (6.5, 14, 29, 59)),
    (100, 1, 20, 1e-4, 8, 2.43, (0.24, 0.54, 1.1, 2.2)),
    (100, 1, 20, 1e-4, 2, 7.76, (0.78, 1.7, 3.5, 7.0)),
    (1000, 0.1, 50, 1e-5, 8, 0.80, (0.08, 0.18, 0.36, 0.73)),
    (1000, 0.1, 50, 1e-5, 2, 1.75, (0.18, 0.39, 0.79, 1.6)),
    (10_000, 0.02, 100, 1e-6, 2, 0.96, (0.05, 0.11, 0.22, 0.43)),
]
"""Clients, participation, rounds, delta, epsilon -> noise multiplier, noise over signal for 100 .. 8,192 values."""


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wider cells of privacy loss, which a slow machine passes ten times as fast."""
    monkeypatch.setattr("promptfed.privacy.accountant.INTERVAL", 1e-3)


@pytest.mark.parametrize(("clients", "participation", "rounds", "delta", "target", "multiplier", "noise"), TABLE)
def test_the_table_of_the_documentation(
    clients: int, participation: float, rounds: int, delta: float, target: float, multiplier: float, noise: tuple
) -> None:
    made = plan(clients, rounds, participation, epsilon_limit=target)
    assert made.delta == pytest.approx(delta)  # the default
    assert made.multiplier == pytest.approx(multiplier, abs=0.02)
    assert 0.99 * target <= made.epsilon <= target <= made.rdp
    assert [each.size for each in made.expectations] == [100, 500, 2048, 8192]
    assert [each.noise for each in made.expectations] == pytest.approx(noise, rel=0.07)


def test_noise_over_signal_by_hand() -> None:
    """z sqrt(d) / (q N) = 2 * 30 / (0.5 * 40) = 3; three times as many clients make it 1."""
    made = expectation(900, 2.0, 40, 0.5)
    assert (made.noise, made.clients_needed) == (3.0, 120)
    assert made.verdict == "mostly noise: at best survivable over many rounds"
    words = [expectation(1, z, 1, 1.0).verdict.partition(":")[0] for z in (0.3, 1.0, 5.0, 5.01)]
    assert words == ["little noise", "some noise", "mostly noise", "nothing but noise"]


def test_the_mean_has_as_much_noise_as_is_said() -> None:
    import torch

    from promptfed.privacy.noise import NoiseStream, noised_sum

    made = plan(200, 20, 1.0, multiplier=1.5, sizes=(1_000,)).expectations[2]
    mean = noised_sum(torch.zeros(1_000), 0.4, 1.5, NoiseStream(bytes(32), "x")) / 200
    assert float(mean.norm()) / 0.4 == pytest.approx(made.noise, rel=4 / math.sqrt(2 * 1_000))


def test_the_other_direction_and_who_knows_the_participants() -> None:
    made = plan(1000, 50, 0.1, multiplier=1.0, delta=1e-5)
    assert made.epsilon == pytest.approx(5.148, rel=0.01)
    assert made.unsampled == pytest.approx(54.38, rel=0.01) == epsilon((Release(1.0, 1.0, 50),), 1e-5)
    assert made.claims_amplification
    everybody = plan(1000, 50, 1.0, multiplier=8.0, delta=1e-5)
    assert everybody.epsilon == everybody.unsampled == pytest.approx(3.797, abs=0.001)
    assert not everybody.claims_amplification
    assert everybody.largest_size == 15_625  # (1000 / 8)^2


def test_given_sizes_stand_among_the_usual_ones() -> None:
    sizes = [each.size for each in plan(100, 5, 1.0, multiplier=4.0, sizes=(40, 8192, 10**6)).expectations]
    assert sizes == [40, 100, 500, 2048, 8192, 10**6]


def test_levers_come_with_their_figures() -> None:
    few = plan(10, 20, 1.0, multiplier=2.0, delta=1e-3)
    said = levers(few)
    assert said[0] == "more clients: twice as many halve the noise; 182 bring it down to the signal for 8,192 values"
    assert "an example in place of a client" in said[1]
    assert "up to 25 have no more noise than signal" in said[2]
    many = levers(plan(10_000, 20, 1.0, multiplier=2.0))
    assert many[0] == "more clients: twice as many halve the noise"
    assert not any("example" in words for words in many)
    sampled = plan(200, 20, 0.1, epsilon_limit=8.0)
    everybody = next(words for words in levers(sampled) if words.startswith("everybody in every round"))
    assert "noise multiplier 2.5082 " in everybody
    assert "1.1 in place of 2.9" in everybody


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "either epsilon"),
        ({"epsilon_limit": 1.0, "multiplier": 1.0}, "either epsilon"),
        ({"epsilon_limit": 0.0}, "epsilon is a positive number"),
        ({"multiplier": 0.0}, "noise multiplier is a positive number"),
        ({"multiplier": 1e300}, "1e\\+300 is none to count with"),
        ({"multiplier": 1e-200}, "1e-200 is none to count with"),
        ({"multiplier": 1.0, "delta": 0.3}, "does not protect 4 clients"),
    ],
)
def test_what_cannot_be_planned_is_one_line(options: dict[str, float], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        plan(4, 5, 1.0, **options)


def test_a_plan_is_written_as_json_has_it() -> None:
    made: Plan = plan(100, 5, 1.0, multiplier=4.0)
    record = made.recorded()
    assert (record["unit"], record["adjacency"], record["trusts"]) == ("client", "add-remove", "server")
    assert record["expectations"][0] == {
        "size": 100, "noise": 0.4, "clients_needed": 40, "verdict": "some noise: below the signal",
    }  # fmt: skip
    assert expectations.USUAL_SIZES[-1] == record["expectations"][-1]["size"]
