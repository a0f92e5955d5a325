from __future__ import annotations

import math

import pytest

from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError, TrainingError
from promptfed.methods.fedclip import FedCLIP, FedCLIPConfig
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.privacy.dpsgd import DPSGD
from promptfed.privacy.secret_key import SecretKey
from promptfed.types import Broadcast, Job


@pytest.fixture
def jobs_of(setup):
    start = PromptFL(PromptFLConfig(), setup).init_shared()
    return lambda round=1, clients=(0, 1, 2): [Job(c, Broadcast(round, start)) for c in clients]


def lost(replies):
    return [reply.client for reply in replies if reply.failure == "dropped out"]


def test_the_share_of_drop_outs_is_right_and_does_not_depend_on_company(setup, toy_task, jobs_of):
    method = PromptFL(PromptFLConfig(local_epochs=1), setup)
    worker = ClientWorker(method, toy_task, dropout=0.9)
    together = [lost(worker(jobs_of(round))) for round in range(1, 41)]
    alone = [[c for c in range(3) if lost(worker(jobs_of(round, (c,))))] for round in range(1, 41)]
    assert together == alone
    assert 95 <= sum(map(len, together)) <= 119, "about 108 of 120"


def test_no_drop_outs_unless_asked_for(setup, toy_task, jobs_of):
    worker = ClientWorker(PromptFL(PromptFLConfig(local_epochs=1), setup), toy_task)
    assert not any(lost(worker(jobs_of(round))) for round in range(1, 11))


def test_who_drops_out_does_no_work_and_keeps_its_personal_prompt(setup, toy_task, jobs_of):
    worker = ClientWorker(PromptFL(PromptFLConfig(), setup), toy_task, dropout=1.0)
    jobs = jobs_of()
    for job, reply in zip(jobs, worker(jobs), strict=True):
        assert (reply.client, reply.round, reply.failure) == (job.client, 1, "dropped out")
        assert reply.personal is job.personal
        assert reply.update.samples == 0
        assert not len(reply.update.shared)
    assert setup.backbone.calls.texts == 0


def test_an_error_is_told_apart_from_a_drop_out(setup, toy_task, jobs_of):
    class Stumbling(PromptFL):
        def problem(self, broadcast, data, personal):
            raise TrainingError(f"client {data.client} stumbled")

    worker = ClientWorker(Stumbling(PromptFLConfig(), setup), toy_task, dropout=0.5)
    seen = {reply.failure for round in range(1, 9) for reply in worker(jobs_of(round))}
    assert seen == {"dropped out", *(f"error: client {c} stumbled" for c in range(3))}


def test_mistakes_in_the_program_are_not_taken_for_failing_clients(setup, toy_task, jobs_of):
    class Wrong(PromptFL):
        def problem(self, broadcast, data, personal):
            raise KeyError("ctx")

    with pytest.raises(KeyError):
        ClientWorker(Wrong(PromptFLConfig(), setup), toy_task)(jobs_of())


def test_private_training_takes_the_methods_place(setup, toy_task, jobs_of):
    """The clients' prompts have noise, and no loss or accuracy is in a reply."""
    training = DPSGD(SecretKey(bytes(32)), clip=1.0, multiplier=1.0)
    plain = ClientWorker(PromptFL(PromptFLConfig(), setup), toy_task)
    private = ClientWorker(plain.method, toy_task, private_training=training)
    jobs = jobs_of()
    for reply, other, again in zip(private(jobs), plain(jobs), private(jobs), strict=True):
        assert not reply.failure
        assert (reply.update.shared - other.update.shared).norm() > 1e-3
        assert reply.update.shared == again.update.shared
        assert math.isnan(reply.update.loss)
        assert not math.isnan(other.update.loss)


def test_private_training_refuses_other_methods(setup, toy_task):
    training = DPSGD(SecretKey(bytes(32)), clip=1.0, multiplier=1.0)
    with pytest.raises(ConfigError, match=r"does not go with FedCLIP: its loss contrasts"):
        ClientWorker(FedCLIP(FedCLIPConfig(), setup), toy_task, private_training=training)
