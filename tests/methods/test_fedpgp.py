from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.methods.fedpgp import FedPGP, FedPGPConfig, contrast
from promptfed.types import NO_PROMPT, Broadcast, ClientPrompt

ONE_STEP = {
    "optimizer": "sgd", "momentum": 0, "lr": 0.3, "schedule": "constant", "local_epochs": 1, "batch_size": 100,
}  # fmt: skip


@pytest.fixture
def personal(setup, toy_task):
    """What client 2 keeps after a round."""
    method = FedPGP(FedPGPConfig(rank=2), setup)
    return method.train(Broadcast(1, method.init_shared()), toy_task.clients[2], NO_PROMPT)[1]


def features(setup, ctx, names):
    return setup.backbone.encode_prompted_text(ctx, setup.backbone.class_tokens(names, len(ctx)))


def test_the_contrast_by_hand():
    """Class 1: p = 1, q = 0. Class 2: p = 0, q = 1, over tau = 0.5."""
    x, y = torch.eye(2)
    found = contrast(torch.stack([x, x]), torch.stack([3 * x, y]), torch.stack([y, 2 * y]), 0.5)
    expected = [-math.log(math.exp(p / 0.5) / (math.exp(p / 0.5) + math.exp(q / 0.5))) for p, q in ((1, 0), (0, 1))]
    assert found.item() == pytest.approx(sum(expected) / 2)


def test_one_sgd_step_is_the_gradient_of_the_formula(setup, toy_task, personal):
    config = FedPGPConfig(rank=2, mu=0.7, tau=0.4, template="the {}", **ONE_STEP)
    method, data = FedPGP(config, setup), toy_task.clients[2]
    shared = method.init_shared()
    update, kept = method.train(Broadcast(1, shared), data, personal)

    sigma, u, v = (t.clone().requires_grad_(True) for t in (shared["sigma"], personal["u"], personal["v"]))
    names = toy_task.base_classes
    hand = setup.backbone.encode_text([f"the {name}" for name in names])
    common, fitted = features(setup, sigma, names), features(setup, sigma + u @ v, names)
    images = F.normalize(setup.features.images(data.train), dim=-1)
    entropy = F.cross_entropy(10 * images @ F.normalize(fitted, dim=-1).T, data.train.labels)
    scores = torch.stack([F.cosine_similarity(hand, common), F.cosine_similarity(common, fitted)], 1) / 0.4
    loss = entropy + 0.7 * F.cross_entropy(scores, torch.zeros(4, dtype=torch.int64))
    loss.backward()
    assert update.loss == pytest.approx(loss.item(), abs=1e-5)
    for found, start in ((update.shared["sigma"], sigma), (kept["u"], u), (kept["v"], v)):
        assert start.grad.abs().max() > 0
        assert torch.allclose(found, start.detach() - 0.3 * start.grad, atol=1e-6)


def test_the_personal_part_has_the_rank_asked_for_and_is_never_sent(setup, toy_task):
    method = FedPGP(FedPGPConfig(rank=2), setup)
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))
    state = fed.start()
    for _ in range(2):
        state, replies = fed.run_round(state)
        assert all(set(reply.update.shared) == {"sigma"} and not reply.failure for reply in replies)
    assert set(state.shared) == {"sigma"}
    assert {name: tuple(t.shape) for name, t in state.personal[1].items()} == {"u": (16, 2), "v": (2, 4)}
    assert state.personal[0] != state.personal[1]


def test_a_clients_first_step_starts_from_sigma(setup, toy_task):
    """One batch and one step: the loss reported is that of the start, where ctx = sigma."""
    method, data = FedPGP(FedPGPConfig(mu=0, **ONE_STEP), setup), toy_task.clients[2]
    shared = method.init_shared()
    update, kept = method.train(Broadcast(1, shared), data, NO_PROMPT)
    before = F.cross_entropy(method.logits(shared, NO_PROMPT, toy_task.base_classes, data.train), data.train.labels)
    assert update.loss == pytest.approx(before.item(), abs=1e-5)
    assert kept["v"].abs().max() > 0


def test_features_are_those_of_sigma_plus_the_low_rank_part_for_any_names(setup, personal):
    method = FedPGP(FedPGPConfig(rank=2), setup)
    shared, names = method.init_shared(), ["pink", "red"]
    sigma, added = shared["sigma"], personal["u"] @ personal["v"]
    for alpha, state in ((0.0, NO_PROMPT), (1.0, personal), (0.25, method.blend(shared, personal, 0.25))):
        by_hand = F.normalize(features(setup, sigma + alpha * added, names), dim=-1)
        assert torch.allclose(method.class_features(shared, state, names), by_hand, atol=1e-6)
    quarter = method.client_features(ClientPrompt(shared, personal, 0.25, "prompt"), names)
    assert torch.allclose(quarter, F.normalize(features(setup, sigma + 0.25 * added, names), dim=-1), atol=1e-6)


def test_the_hand_written_sentences_are_encoded_once(setup, toy_task):
    method, data = FedPGP(FedPGPConfig(batch_size=100, local_epochs=1), setup), toy_task.clients[2]
    job = Broadcast(1, method.init_shared()), data, NO_PROMPT
    method.train(*job)
    before = setup.backbone.calls.texts
    method.train(*job)
    assert setup.backbone.calls.texts - before == 2 * 4, "one step: four classes with sigma, four with ctx"


def test_a_larger_mu_holds_sigma_to_the_hand_written_sentence(setup, toy_task):
    def closeness(mu):
        method = FedPGP(FedPGPConfig(mu=mu, local_epochs=20), setup)
        update, _ = method.train(Broadcast(1, method.init_shared()), toy_task.clients[2], NO_PROMPT)
        hand = setup.features.texts(toy_task.base_classes)
        return F.cosine_similarity(hand, method.class_features(update.shared, NO_PROMPT, toy_task.base_classes)).mean()

    assert closeness(10.0) > closeness(0.0)


def test_two_clients_together_are_two_one_by_one(setup, toy_task, personal):
    method = FedPGP(FedPGPConfig(rank=2, batch_size=3), setup)
    broadcast = Broadcast(1, method.init_shared())
    jobs = [(broadcast, toy_task.clients[1], NO_PROMPT), (broadcast, toy_task.clients[2], personal)]
    for (update, kept), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, alone_kept = method.train(*job)
        assert torch.allclose(update.shared["sigma"], alone.shared["sigma"], atol=1e-5)
        assert (kept - alone_kept).norm() < 1e-5
