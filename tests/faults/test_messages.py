"""Both sides' messages, mutated: refused in one line or harmless, and the others go on."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")

from faults.messages import run_message_mutants
from faults.outcomes import BAD


@pytest.mark.parametrize("count", [20, pytest.param(800, marks=pytest.mark.slow)])
def test_mutants_of_messages_cost_nobody_but_their_sender(count):
    outcomes = list(run_message_mutants(seed=0, count=count))
    assert len(outcomes) == count
    assert not [outcome for outcome in outcomes if outcome.result in BAD]
    assert sum(outcome.result == "refused" for outcome in outcomes) > count / 2
    assert {outcome.suite for outcome in outcomes} == {"messages to the server", "messages to a site"}
