from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.attacks.base import ATTACKS, adversary_of, build_attack, checked_options, malicious_clients, poisoned
from promptfed.attacks.round import change_of, with_change
from promptfed.config import build_config
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.federation import Federation
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.processors.pipeline import Pipeline
from promptfed.prompt_state import PromptState
from promptfed.resolve import resolve
from promptfed.types import Broadcast, Job, Reply, Update


@pytest.fixture
def method(setup):
    return PromptFL(PromptFLConfig(n_ctx=2), setup)


def honest(jobs):
    """Every client moves its prompt by one more than its number, and says so."""
    return [
        Reply(
            job.client,
            job.broadcast.round,
            Update(job.client, job.broadcast.shared.map(lambda t, c=job.client: t + c + 1), 4, 0.5, 0.5),
            job.personal,
            0.1,
            failure="late" if job.client == 9 else "",
        )
        for job in jobs
    ]


def jobs_of(*clients):
    return [Job(client, Broadcast(2, PromptState({"ctx": torch.ones(2, 3)}))) for client in clients]


def test_the_seed_chooses_the_malicious_clients():
    assert malicious_clients(range(10), 0.2, 0) == malicious_clients(reversed(range(10)), 0.2, 0)
    assert len(malicious_clients(range(10), 0.25, 0)) == 3
    assert len({malicious_clients(range(10), 0.2, seed) for seed in range(20)}) > 5
    assert [len(malicious_clients(range(4), share, 0)) for share in (0, 0.01, 0.5, 0.99)] == [0, 1, 2, 3]


def test_only_the_malicious_replies_change_and_a_failure_stays_one():
    work = poisoned(honest, build_attack("signflip", {"strength": 2}), {1, 9})
    first, second, lost = work(jobs_of(0, 1, 9))
    assert first.update.shared["ctx"].unique().tolist() == [2.0]
    assert second.update.shared["ctx"].unique().tolist() == [-3.0]  # 1 - 2 * 2
    assert lost == honest(jobs_of(9))[0]


def test_until_its_first_round_an_attack_is_honest():
    work = poisoned(honest, build_attack("signflip", {"start": 3}), {1})
    assert work(jobs_of(1)) == honest(jobs_of(1))


def test_a_change_goes_back_to_the_update_it_came_from():
    sent = PromptState({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]])})
    update = PromptState({"a": torch.tensor([2.0, 2.5]), "b": torch.tensor([[1.0]]), "own": torch.tensor([7])})
    assert change_of(update, sent).tolist() == [1.0, 0.5, -2.0]
    assert with_change(update, sent, change_of(update, sent)) == update


@pytest.mark.parametrize("name", tuple(ATTACKS))
def test_an_attack_repeats_and_says_what_it_knows(name, method, toy_task):
    options = checked_options({"name": name, "malicious": 0.5})
    adversary = adversary_of(options, method, toy_task)
    assert len(adversary.clients) == 2
    made = []
    for _ in range(2):
        worker = ClientWorker(method, toy_task, malicious=adversary_of(options, method, toy_task))
        federation = Federation(method, Mean(Mean.Config()), LocalEngine(worker, client_batch=3), range(3))
        state, replies = federation.run_round(federation.start())
        made.append(state.shared)
        assert sum(bool(reply.failure) for reply in replies) <= len(adversary.clients)
    assert made[0] == made[1]
    assert ATTACKS[name].knows in ("own update", "own data", "this round")


@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS[name].knows != "this round"])
def test_what_knows_its_own_alone_does_the_same_one_by_one(name, method, toy_task):
    options = checked_options({"name": name, "malicious": 0.5})
    jobs = [Job(client, Broadcast(1, method.init_shared())) for client in range(3)]
    worker = ClientWorker(method, toy_task, malicious=adversary_of(options, method, toy_task))
    together, alone = worker(jobs), [worker([job])[0] for job in jobs]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.update.shared["ctx"], other.update.shared["ctx"], rtol=1e-4, atol=1e-5)
        assert one.update.samples == other.update.samples


def test_a_liar_leaves_out_the_processors_that_nobody_can_check(method, toy_task):
    pipeline = Pipeline.build([{"clip": {"max_norm": 1e-3}}, {"quantize": {}}], 0)
    assert list(pipeline.formats.processors) == ["quantize"]
    adversary = adversary_of(checked_options({"name": "scale", "malicious": 0.3}), method, toy_task)
    worker = ClientWorker(method, toy_task, processors=pipeline, malicious=adversary)
    sent = method.init_shared()
    for reply in worker([Job(client, Broadcast(1, sent)) for client in range(3)]):
        received = pipeline.incoming(reply.update, Broadcast(1, sent))
        assert ((received.shared - sent).norm() > 0.1) == (reply.client in adversary.clients)


def test_options_are_checked_before_anything_runs():
    assert checked_options({}) == {}
    assert checked_options({"name": "signflip"})["strength"] == 5.0
    for options, why in (
        ({"malicious": 0.2}, "need its name"),
        ({"name": "signflop"}, "signflip"),
        ({"name": "signflip", "strenght": 2}, "strength"),
        ({"name": "signflip", "malicious": 1.0}, "malicious"),
    ):
        with pytest.raises(ConfigError, match=why):
            checked_options(options)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"method": "zero_shot", "attack_options": {"name": "signflip"}}, "trains nothing"),
        ({"engine": "ray", "attack_options": {"name": "alie"}}, "use --engine local"),
    ],
)
def test_what_cannot_be_attacked_is_refused(options, why):
    with pytest.raises(ConfigError, match=why):
        resolve(build_config({"clients": 4, **options}))


def test_a_server_for_sites_refuses_an_attack():
    pytest.importorskip("flwr")
    from promptfed.deployment.server import checked

    with pytest.raises(ConfigError, match="is a simulation"):
        checked(build_config({"clients": 4, "attack_options": {"name": "signflip"}}))


def test_an_update_without_a_change_is_refused(method, toy_task):
    attack = build_attack("signflip")
    with pytest.raises(ConfigError, match="no change of real numbers"):
        attack.check(method, toy_task, PromptState({"text": torch.tensor([1])}), PromptState())


def test_data_of_a_later_task_object_are_poisoned_anew(method, toy_task):
    adversary = adversary_of(checked_options({"name": "labelflip", "malicious": 0.3}), method, toy_task)
    [client] = adversary.clients
    data = toy_task.client(client)
    assert adversary.data(data, 1) is adversary.data(data, 2)
    assert adversary.data(replace(data), 1) is not adversary.data(data, 1)
    other = toy_task.client((client + 1) % 3)
    assert adversary.data(other, 1) is other
