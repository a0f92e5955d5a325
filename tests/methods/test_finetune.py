from __future__ import annotations

import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.methods.finetune import Finetune, FinetuneConfig
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompts.text_context import ContextConfig, ContextTuner
from promptfed.types import NO_PROMPT, Broadcast

NAMES = ("red", "pink", "cyan")


def federation(setup, task, method, aggregator="mean", participation=1.0):
    server = build_aggregator(aggregator, {})
    return Federation(method, server, LocalEngine(ClientWorker(method, task)), range(3), participation)


def finished(fed, rounds):
    state = fed.start()
    for _ in range(rounds):
        state, replies = fed.run_round(state)
    return state, replies


def test_the_rounds_before_the_last_are_promptfls(setup, toy_task):
    method = Finetune(FinetuneConfig(), setup)
    assert method.rounds == setup.rounds + 1
    ours, _ = finished(federation(setup, toy_task, method), 3)
    theirs, _ = finished(federation(setup, toy_task, PromptFL(PromptFLConfig(), setup)), 3)
    assert ours.shared == theirs.shared
    assert all(not len(personal) for personal in ours.personal.values())


@pytest.mark.parametrize("aggregator", ["mean", "fedavgm"])
def test_the_last_round_changes_nothing_shared_whatever_the_server_does(setup, toy_task, aggregator):
    fed = federation(setup, toy_task, Finetune(FinetuneConfig(), setup), aggregator)
    before, _ = finished(fed, 3)
    after, replies = fed.run_round(before)
    assert all(reply.update.shared == before.shared for reply in replies)
    assert (after.shared, after.server) == (before.shared, before.server)
    assert len({after.personal[k].sha256() for k in range(3)}) == 3


def test_what_a_client_keeps_is_its_own_training_from_the_final_prompt(setup, toy_task):
    options = {"batch_size": 4, "optimizer": "sgd"}
    method = Finetune(FinetuneConfig(**options, finetune_epochs=3, finetune_lr=0.05), setup)
    before, _ = finished(federation(setup, toy_task, method), 3)
    after, _ = federation(setup, toy_task, method).run_round(before)
    alone = ContextTuner(ContextConfig(**options, lr=0.05, local_epochs=3, schedule="constant"), setup)
    for data in toy_task.clients:
        by_hand, _ = alone.train(before.shared, data, round=4)
        assert torch.equal(after.personal[data.client]["local"], by_hand["ctx"])


def test_everybody_takes_part_in_the_last_round(setup, toy_task):
    fed = federation(setup, toy_task, Finetune(FinetuneConfig(), setup), participation=0.34)
    assert [len(fed.participants(r)) for r in (1, 2, 3, 4)] == [1, 1, 1, 3]


def test_a_pull_keeps_the_own_prompt_near_the_shared_one(setup, toy_task):
    def distance(pull):
        config = FinetuneConfig(optimizer="sgd", momentum=0, finetune_lr=0.1, finetune_epochs=20, l2_to_global=pull)
        method = Finetune(config, setup)
        shared = method.init_shared()
        _, personal = method.train(Broadcast(4, shared), toy_task.clients[2], NO_PROMPT)
        return (personal["local"] - shared["ctx"]).norm().item()

    assert distance(5.0) < 0.5 * distance(0.0)


def test_somebody_without_an_own_prompt_has_the_shared_one(setup, toy_task):
    method = Finetune(FinetuneConfig(), setup)
    shared = method.init_shared()
    _, personal = method.train(Broadcast(4, shared), toy_task.clients[2], NO_PROMPT)
    nobody = method.class_features(shared, NO_PROMPT, NAMES)
    assert torch.equal(nobody, method.tuner.class_features(shared, NAMES))
    assert not torch.allclose(nobody, method.class_features(shared, personal, NAMES), atol=1e-4)
    assert torch.equal(nobody, method.class_features(shared, method.blend(shared, personal, 0.0), NAMES))


def test_clients_side_by_side_end_where_each_would_alone(setup, toy_task):
    method = Finetune(FinetuneConfig(l2_to_global=0.3), setup)
    jobs = [(Broadcast(4, method.init_shared()), data, NO_PROMPT) for data in toy_task.clients[1:]]
    for (update, personal), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, own = method.train(*job)
        assert update.loss == pytest.approx(alone.loss, abs=1e-5)
        assert torch.allclose(personal["local"], own["local"], atol=1e-5)
