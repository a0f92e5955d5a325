"""Reliable prompts: the loss against its formula, what is said of oneself and of others, and who may ask for it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.base import build_aggregator
from promptfed.config import RunConfig
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.experiment import Experiment
from promptfed.federation import Federation
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.methods.reliable import Reliable, ReliableConfig, chance
from promptfed.prompt_state import PromptState
from promptfed.resolve import resolve
from promptfed.types import NO_PROMPT, Broadcast

PLAIN = {"optimizer": "sgd", "momentum": 0, "lr": 0.2, "schedule": "constant", "batch_size": 100, "local_epochs": 1}


def federation(setup, task, how="cross", **options):
    method = Reliable(ReliableConfig(**options), setup)
    rule = build_aggregator("reliability", {"reliability": how})
    return Federation(method, rule, LocalEngine(ClientWorker(method, task)), range(3))


def test_a_step_is_promptfls_and_the_gradients_of_both_terms(setup, toy_task):
    data, mixture = toy_task.clients[2], PromptFL(PromptFLConfig(), setup).init_shared()
    own = PromptState(
        {"local": mixture["ctx"] + 0.1 * torch.randn(mixture["ctx"].shape, generator=torch.manual_seed(0))}
    )
    start = torch.lerp(own["local"], mixture["ctx"], 0.25).requires_grad_()
    plain = PromptFL(PromptFLConfig(**PLAIN), setup)
    stepped = plain.train(Broadcast(1, PromptState({"ctx": start})), data, NO_PROMPT)[0].shared["ctx"]
    distance = 1 - F.cosine_similarity(start.flatten(), mixture["ctx"].flatten(), dim=0)
    (slope,) = torch.autograd.grad(0.7 * distance + 0.05 * start.square().sum(), start)
    method = Reliable(ReliableConfig(**PLAIN, alpha=0.7, beta=0.1, start=0.25), setup)
    update, personal = method.train(Broadcast(2, mixture), data, own)
    torch.testing.assert_close(update.shared["ctx"], stepped - 0.2 * slope, atol=1e-6, rtol=0)
    assert torch.equal(personal["local"], update.shared["ctx"])


def test_an_update_says_how_accurate_its_prompt_is_on_validation_data(setup, toy_task):
    method = Reliable(ReliableConfig(), setup)
    data = toy_task.clients[2]
    update, personal = method.train(Broadcast(1, method.init_shared()), data, NO_PROMPT)
    scores = method.logits(method.init_shared(), personal, setup.classes, data.val)
    assert len(data.val)
    assert update.accuracy == pytest.approx((scores.argmax(-1) == data.val.labels).double().mean().item())


def test_what_it_says_of_others_is_their_accuracy_above_a_guess(setup, toy_task):
    method, data = Reliable(ReliableConfig(), setup), toy_task.clients[2]
    noise = torch.manual_seed(1)
    peers = [torch.randn(method.init_shared()["ctx"].shape, generator=noise) for _ in range(2)]
    sent = PromptState({**method.init_shared(), "peer/0/ctx": peers[0], "peer/1/ctx": peers[1]})
    assert method.uploads(2, sent) == {"ctx": tuple(peers[0].shape), "peer_scores": (2,)}
    update, _ = method.train(Broadcast(2, sent), data, NO_PROMPT)
    guess = chance(data.val)
    assert 0 < guess < 1
    expected = [max(0, (method.accuracy(ctx, data.val) - guess) / (1 - guess)) for ctx in peers]
    assert update.shared["peer_scores"].tolist() == pytest.approx(expected)


def test_in_a_federation_everybody_is_scored_and_deploys_what_it_sent(setup, toy_task):
    fed = federation(setup, toy_task)
    state = fed.start()
    for _ in range(3):
        state, replies = fed.run_round(state)
        assert not any(reply.failure for reply in replies)
    scored = {name for name in state.server if name.startswith("score/")}
    assert scored == {f"score/{a}/{b}" for a in range(3) for b in range(3) if a != b}
    for reply in replies:
        prompt = fed.prompt(state, reply.client)
        assert set(prompt.shared) == {"ctx"}
        assert torch.equal(prompt.personal["local"], reply.update.shared["ctx"])


def test_it_comes_with_its_own_aggregator():
    assert resolve(RunConfig(method="reliable")).aggregator == "reliability"
    with pytest.raises(ConfigError, match="'mean' does not go with method 'reliable'"):
        resolve(RunConfig(method="reliable", aggregator="mean"))


def test_the_aggregator_goes_with_other_methods_unless_they_had_to_score():
    options = {"method": "promptfl", "aggregator": "reliability", "shots": 1, "clients": 3}
    Experiment.build(RunConfig(**options))
    with pytest.raises(ConfigError, match="score no prompts of others: use --method reliable"):
        Experiment.build(RunConfig(**options, aggregator_options={"reliability": "cross"}))
