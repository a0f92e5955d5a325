"""Commands on a disk that refuses, that are killed, or on a finished run with a flipped bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.finished_flips import run_finished_flips
from faults.kills import run_kills
from faults.outcomes import BAD
from faults.write_faults import run_write_faults


@pytest.mark.slow
def test_write_faults_lose_nothing(tmp_path: Path) -> None:
    outcomes = run_write_faults(tmp_path, every=17)
    commands = {outcome.fault.partition(":")[0] for outcome in outcomes}
    assert commands == {"train", "resume", "report", "personalize", "export"}
    assert [outcome for outcome in outcomes if outcome.result in BAD] == []
    assert {outcome.result for outcome in outcomes} >= {"refused"}


@pytest.mark.slow
def test_kills_lose_nothing(tmp_path: Path) -> None:
    outcomes = run_kills(seed=2, count=8, folder=tmp_path)
    assert [outcome.result for outcome in outcomes] == ["no difference"] * 16


@pytest.mark.slow
def test_flips_in_finished_runs_are_never_silent(tmp_path: Path) -> None:
    outcomes = run_finished_flips(seed=4, count=12, folder=tmp_path)
    assert len(outcomes) == 36
    assert [outcome for outcome in outcomes if outcome.result in BAD] == []
    assert {outcome.result for outcome in outcomes} == {"no difference", "said", "refused"}
