"""Answers that get lost: a site that is done is asked again, one that is at work is not."""

from __future__ import annotations

import pytest

pytest.importorskip("flwr")

from promptfed.deployment import codec, lost_answers, site_pool
from promptfed.deployment.lost_answers import LostAnswers
from promptfed.deployment.site_pool import ATTEMPTS, SitePool
from promptfed.types import Broadcast, Job

from .secure_sites import one_round, secure_sites, values

QUIET = 0.3


class Clock:
    """A clock that stands still but while somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def jobs_of(simulation):
    federation = simulation.experiment.federation(engine=simulation.engine)
    state = federation.start()
    return [Job(c, Broadcast(1, state.shared), state.personal[c], federation.stage) for c in range(3)]


def asked(simulation, kind, node=200):
    """The questions of a kind that went to a node."""
    there = [message for message in simulation.grid.seen if message.metadata.dst_node_id == node]
    return [message for message in there if codec.kind_of(message.content) == kind]


def losing(simulation, kind, times, node=200):
    """Have the first answers of a node to questions of a kind get lost."""
    left = [times]

    def loses(message):
        if message.metadata.dst_node_id != node or codec.kind_of(message.content) != kind or not left[0]:
            return False
        left[0] -= 1
        return True

    simulation.grid.loses = loses
    simulation.sites.quiet = QUIET


def test_a_lost_answer_is_asked_for_again_and_the_round_ends_as_if_nothing_was(simulate):
    calm, simulation = simulate(), simulate()
    losing(simulation, "Train", times=1)
    expected, replies = calm.engine.run_round(jobs_of(calm)), simulation.engine.run_round(jobs_of(simulation))
    assert [reply.failure for reply in replies] == ["", "", ""]
    assert [reply.update.shared.sha256() for reply in replies] == [r.update.shared.sha256() for r in expected]
    assert [len(asked(simulation, "Train", node)) for node in (100, 200, 300)] == [1, 2, 1]
    assert replies[1].bytes_down > 1.9 * replies[0].bytes_down, "it was asked twice"
    assert any("has had its question for 0 s: it may be at work" in line for line in simulation.said)
    assert any("--client-seconds sets a limit" in line for line in simulation.said)
    assert any("is done and its answer did not come: it is asked again" in line for line in simulation.said)


def test_a_lost_answer_to_a_ping_costs_another_ping(simulate):
    simulation = simulate()
    lost = {"Train": 1, "Ping": 1}

    def loses(message):
        kind = codec.kind_of(message.content)
        if message.metadata.dst_node_id != 200 or not lost.get(kind):
            return False
        lost[kind] -= 1
        return True

    simulation.grid.loses, simulation.sites.quiet = loses, QUIET
    assert [reply.failure for reply in simulation.engine.run_round(jobs_of(simulation))] == ["", "", ""]
    assert len(asked(simulation, "Ping")) == 2


def test_answers_that_are_lost_each_time_cost_the_update(simulate):
    simulation = simulate()
    losing(simulation, "Train", times=99)
    replies = simulation.engine.run_round(jobs_of(simulation))
    assert [bool(reply.failure) for reply in replies] == [False, True, False]
    assert replies[1].failure.startswith(f"error: asked {ATTEMPTS} times, and no answer came")
    assert len(asked(simulation, "Train")) == ATTEMPTS


def test_a_site_that_is_at_work_is_asked_once_and_the_wait_is_said(simulate, monkeypatch):
    simulation = simulate()
    simulation.grid.lost.add(200)
    simulation.sites.quiet = 0.05
    clock = Clock()
    for module in (lost_answers, site_pool):
        monkeypatch.setattr(module, "time", clock)
    [late] = [r for r in simulation.engine.run_round(jobs_of(simulation), seconds=2.0) if r.failure]
    assert (late.client, late.failure) == (1, "late")
    assert len(asked(simulation, "Train")) == 1
    waits = [line for line in simulation.said if "has had its question" in line]
    assert len(waits) == len(asked(simulation, "Ping")) == 5, "after 0.05, 0.15, 0.35, 0.75 and 1.55 s: ever rarer"
    assert not any("--client-seconds" in line for line in simulation.said), "there is a limit"


@pytest.mark.parametrize("leg", ["keys", "masked", "unmask"])
def test_a_lost_answer_in_a_secure_sum_gets_the_same_words(simulate, leg):
    pytest.importorskip("cryptography")
    calm, simulation = secure_sites(simulate), secure_sites(simulate)
    expected, *_ = one_round(calm)
    lost = [leg]

    def loses(message):
        if message.metadata.dst_node_id != 200 or codec.kind_of(message.content) != "Sum":
            return False
        if f'"leg": "{leg}"' not in message.content["about"]["json"] or not lost:
            return False
        lost.clear()
        return True

    simulation.grid.loses, simulation.sites.quiet = loses, QUIET
    state, _, incidents = one_round(simulation)
    assert incidents == []
    assert not lost
    assert (values(state) - values(expected)).abs().max() < 1e-6
    assert any("secure sum of round 1 over 3 of 3 sites" in line for line in simulation.said)


def test_a_node_that_cannot_be_pinged_is_tried_again():
    waits = []
    answers = LostAnswers(lambda node: None, lambda identity, passed: waits.append(identity), quiet=0.0)
    assert answers.look({"q": 1}) == []
    assert answers.look({"q": 1}) == []
    assert (waits, answers.pings, answers.take("q", is_answer=True)) == (["q", "q"], [], False)


def test_the_wait_is_long_by_default():
    assert SitePool.__init__.__kwdefaults__["quiet"] == 120
