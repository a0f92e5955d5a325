from __future__ import annotations

import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.config import RunConfig
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.federation import Federation
from promptfed.methods.fedamp import FedAMP, FedAMPConfig
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.resolve import resolve
from promptfed.types import NO_PROMPT, Broadcast

PLAIN = {"optimizer": "sgd", "momentum": 0, "lr": 0.2, "schedule": "constant", "batch_size": 100}
NAMES = ("red", "pink", "cyan")


def federation(setup, task, **options):
    method = FedAMP(FedAMPConfig(**options), setup)
    server = build_aggregator("fedamp", {})
    return Federation(method, server, LocalEngine(ClientWorker(method, task)), range(3))


def test_the_pull_goes_to_the_mixture_that_was_sent(setup, toy_task):
    data, shared = toy_task.clients[2], PromptFL(PromptFLConfig(), setup).init_shared()

    def moved(kind, **options):
        return kind(kind.Config(**PLAIN, **options), setup).train(Broadcast(1, shared), data, NO_PROMPT)[0].shared

    once, twice = moved(PromptFL, local_epochs=1), moved(PromptFL, local_epochs=2)
    pulled = moved(FedAMP, local_epochs=2, pull=0.7)
    assert torch.allclose(pulled["ctx"], (twice - (once - shared) * (0.2 * 0.7))["ctx"], atol=1e-6)


def test_a_client_predicts_with_what_it_sent_last(setup, toy_task):
    fed = federation(setup, toy_task)
    state, replies = fed.run_round(fed.start())
    for reply in replies:
        assert list(reply.update.shared) == ["ctx"]
        assert torch.equal(state.personal[reply.client]["local"], reply.update.shared["ctx"])
        prompt = fed.prompt(state, reply.client)
        own = fed.method.class_features(prompt.shared, prompt.personal, NAMES)
        assert torch.equal(own, fed.method.tuner.class_features(reply.update.shared, NAMES))


def test_clients_are_sent_mixtures_of_their_own_and_strangers_the_mean(setup, toy_task):
    fed = federation(setup, toy_task)
    state, replies = fed.run_round(fed.start())
    sent = [fed.prompt(state, client).shared for client in range(3)]
    assert sent[0] != sent[1] != sent[2] != sent[0]
    weights = torch.tensor([3.0, 4.0, 10.0]) / 17
    mean = sum(w * r.update.shared["ctx"] for w, r in zip(weights, replies, strict=True))
    stranger = fed.prompt(state, None)
    assert torch.allclose(stranger.shared["ctx"], mean, atol=1e-6)
    features = fed.method.class_features(stranger.shared, stranger.personal, NAMES)
    assert torch.equal(features, fed.method.tuner.class_features(stranger.shared, NAMES))


def test_blend_leads_from_the_mixture_to_the_own_context(setup, toy_task):
    fed = federation(setup, toy_task)
    state, _ = fed.run_round(fed.start())
    prompt = fed.prompt(state, 1)
    ends = [fed.method.blend(prompt.shared, prompt.personal, alpha)["local"] for alpha in (0.0, 1.0)]
    assert torch.equal(ends[0], prompt.shared["ctx"])
    assert torch.equal(ends[1], prompt.personal["local"])


def test_it_comes_with_its_own_aggregator_and_takes_no_other():
    assert resolve(RunConfig(method="fedamp")).aggregator == "fedamp"
    with pytest.raises(ConfigError, match="'mean' does not go with method 'fedamp'"):
        resolve(RunConfig(method="fedamp", aggregator="mean"))


def test_clients_side_by_side_end_where_each_would_alone(setup, toy_task):
    method = FedAMP(FedAMPConfig(), setup)
    jobs = [(Broadcast(1, method.init_shared()), data, NO_PROMPT) for data in toy_task.clients[1:]]
    for (update, personal), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, own = method.train(*job)
        assert torch.allclose(update.shared["ctx"], alone.shared["ctx"], atol=1e-5)
        assert torch.allclose(personal["local"], own["local"], atol=1e-5)
