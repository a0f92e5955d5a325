from __future__ import annotations

import json

import pytest

pytest.importorskip("dp_accounting", reason="needs pip install 'promptfed[dp]'")


def test_a_plan_says_noise_and_what_to_expect(promptfed):
    said = promptfed("privacy", "plan", "--clients", 10, "--rounds", 20, "--epsilon", 8, "--size", 40)
    assert said.code == 0, said.err
    assert "noise multiplier 2.1467: epsilon 8 at delta 0.001" in said.out
    assert "amplification is not claimed" in said.out
    assert "the server is trusted" in said.out
    assert "40 1.4 14 mostly noise: at best survivable over many rounds" in " ".join(said.out.split())
    assert said.err == ""


def test_sampling_says_what_it_hangs_on(promptfed, monkeypatch):
    monkeypatch.setattr("promptfed.privacy.accountant.INTERVAL", 1e-3)
    words = ("privacy", "plan", "--clients", 1000, "--rounds", 50, "--participation", 0.1)
    said = promptfed(*words, "--noise", 0.8)
    assert "epsilon 8.06 at delta 1e-05" in said.out
    assert "amplification is claimed" in said.out
    assert "faces epsilon 75.9" in " ".join(said.out.split())
    table = json.loads(promptfed(*words, "--noise", 0.8, "--json").out)
    assert table["multiplier"] == 0.8
    assert table["epsilon"] == pytest.approx(8.06, abs=0.01)
    assert len(table["levers"]) >= 4
    assert promptfed(*words, "--noise", 0.8, "--quiet").out == "0.8\t8.062\t1e-05\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "say either --epsilon E"),
        (("--epsilon", 1, "--noise", 1), "say either --epsilon E"),
        (("--epsilon", "nan"), "epsilon is a positive number, not nan"),
        (("--noise", -1), "a noise multiplier is a positive number"),
        (("--noise", 1, "--participation", 2), "above 0 and at most 1"),
        (("--noise", 1, "--delta", 0.1), "delta 0.1 does not protect 10 clients"),
        (("--noise", "much"), "not a valid float"),
    ],
)
def test_a_wrong_plan_is_one_line(promptfed, words, why):
    said = promptfed("privacy", "plan", "--clients", 10, "--rounds", 20, *words)
    assert said.code == 2
    assert why in said.err
    assert len(said.err.strip().splitlines()) == 1


def test_noise_that_hides_nothing_is_said_so(promptfed):
    said = promptfed("privacy", "plan", "--clients", 10, "--rounds", 20, "--noise", 1e-7)
    assert "is no promise to speak of" in said.out
    assert said.err == ""
