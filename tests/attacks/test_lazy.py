from __future__ import annotations

import pytest
import torch

from promptfed.attacks.base import build_attack, poisoned
from promptfed.processors.client_state import prompt_of
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Job, Reply, Update


def honest(jobs):
    """Client c changes its prompt by (c + 1, 0)."""
    return [
        Reply(
            job.client,
            job.broadcast.round,
            Update(
                job.client,
                job.broadcast.shared + PromptState({"ctx": torch.tensor([job.client + 1.0, 0.0])}),
                4,
                0.5,
                0.5,
            ),
            job.personal,
            0.1,
        )
        for job in jobs
    ]


def job(client, values, round=1, personal=NO_PROMPT):
    return Job(client, Broadcast(round, PromptState({"ctx": torch.tensor(values)})), personal)


def change(reply, job):
    return (reply.update.shared - job.broadcast.shared)["ctx"]


def test_a_free_rider_sends_what_it_got():
    asked = job(1, [5.0, 5.0])
    [reply] = poisoned(honest, build_attack("freerider"), {1})([asked])
    assert change(reply, asked).tolist() == [0.0, 0.0]
    [reply] = poisoned(honest, build_attack("freerider", {"how": "noise", "noise": 3}), {1})([asked])
    assert change(reply, asked).norm().item() == pytest.approx(6.0, rel=1e-5)


def test_a_replay_is_the_last_step_of_the_federation():
    work = poisoned(honest, build_attack("freerider", {"how": "replay"}), {1})
    first = job(1, [5.0, 5.0])
    [reply] = work([first])
    assert change(reply, first).tolist() == [0.0, 0.0]
    assert len(prompt_of(reply.personal)) == 0  # nothing that a client would deploy
    second = job(1, [6.0, 3.0], 2, reply.personal)
    [reply] = work([second])
    assert change(reply, second).tolist() == [1.0, -2.0]


def test_sybils_copy_their_leader():
    asked = [job(client, [0.0, 0.0]) for client in (0, 1, 2)]
    attack = build_attack("sybil", {"jitter": 0.1, "strength": 2})
    _, one, other = poisoned(honest, attack, {1, 2})(asked)
    for reply in (one, other):  # the leader's change is (2, 0): reversed, doubled, with noise of length 0.4
        assert (change(reply, asked[0]) - torch.tensor([-4.0, 0.0])).norm().item() == pytest.approx(0.4, rel=1e-4)
    assert one.update.shared != other.update.shared


def test_a_weight_lie_changes_the_count_alone():
    asked = job(1, [5.0, 5.0])
    [reply] = poisoned(honest, build_attack("weightlie", {"samples": 10**6}), {1})([asked])
    assert reply.update.samples == 10**6
    assert change(reply, asked).tolist() == [2.0, 0.0]
    [reply] = poisoned(honest, build_attack("weightlie", {"strength": -1}), {1})([asked])
    assert change(reply, asked).tolist() == [-2.0, 0.0]
