"""A flipped bit in a run's files is said or refused; it never changes a result silently."""

from __future__ import annotations

import pytest
from faults.flips import run_flips
from faults.outcomes import BAD, Outcome, table, tally


@pytest.mark.slow
def test_no_flip_changes_a_result_silently(tmp_path):
    outcomes = run_flips(seed=1, count=40, folder=tmp_path)
    assert len(outcomes) == 40
    assert [outcome for outcome in outcomes if outcome.result in BAD] == []
    assert {outcome.result for outcome in outcomes} == {"no difference", "said", "refused"}


def test_outcomes_are_counted_by_suite():
    outcomes = [Outcome("a", "1", "said"), Outcome("a", "2", "said"), Outcome("b", "3", "lost")]
    assert table(tally(outcomes)).splitlines()[2:] == [
        "| a | 2 | 0 | 2 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |",
        "| b | 1 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 1 |",
    ]
