from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.methods.promptfolio import PromptFolio, PromptFolioConfig, portfolio
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, ClientPrompt

ONE_STEP = {
    "optimizer": "sgd", "momentum": 0, "lr": 0.3, "schedule": "constant", "local_epochs": 1, "batch_size": 100,
}  # fmt: skip


@pytest.fixture
def personal(setup, toy_task):
    """What client 2 keeps after a round."""
    method = PromptFolio(PromptFolioConfig(), setup)
    return method.train(Broadcast(1, method.init_shared()), toy_task.clients[2], NO_PROMPT)[1]


def features(setup, ctx, names):
    return F.normalize(setup.backbone.encode_prompted_text(ctx, setup.backbone.class_tokens(names, len(ctx))), dim=-1)


def test_the_mixture_by_hand():
    found = portfolio([torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 0.5]])], 0.25)
    length = (0.75**2 + 0.25**2) ** 0.5
    assert found.tolist() == [pytest.approx([0.75 / length, 0.25 / length])], "only directions count, not lengths"


def test_one_sgd_step_is_the_gradient_of_the_formula_in_both_contexts(setup, toy_task, personal):
    method, data = PromptFolio(PromptFolioConfig(theta=0.3, **ONE_STEP), setup), toy_task.clients[2]
    shared = method.init_shared()
    update, kept = method.train(Broadcast(1, shared), data, personal)

    common, local = (state.clone().requires_grad_(True) for state in (shared["ctx"], personal["local"]))
    names = toy_task.base_classes
    texts = F.normalize(0.7 * features(setup, common, names) + 0.3 * features(setup, local, names), dim=-1)
    images = F.normalize(setup.features.images(data.train), dim=-1)
    loss = F.cross_entropy(10 * images @ texts.T, data.train.labels)
    loss.backward()
    assert update.loss == pytest.approx(loss.item(), abs=1e-5)
    assert torch.allclose(update.shared["ctx"], shared["ctx"] - 0.3 * common.grad, atol=1e-6)
    assert torch.allclose(kept["local"], personal["local"] - 0.3 * local.grad, atol=1e-6)
    assert local.grad.abs().max() > 0


def test_theta_zero_is_promptfl(setup, toy_task):
    method, plain = PromptFolio(PromptFolioConfig(theta=0), setup), PromptFL(PromptFLConfig(), setup)
    for data in toy_task.clients:
        ours, _ = method.train(Broadcast(1, method.init_shared()), data, NO_PROMPT)
        theirs, _ = plain.train(Broadcast(1, plain.init_shared()), data, NO_PROMPT)
        assert torch.allclose(ours.shared["ctx"], theirs.shared["ctx"], atol=1e-5)


def test_the_local_context_stays_and_goes_on_from_where_it_was(setup, toy_task):
    method = PromptFolio(PromptFolioConfig(), setup)
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))
    first, replies = fed.run_round(fed.start())
    assert all(set(reply.update.shared) == {"ctx"} and not reply.failure for reply in replies)
    assert set(first.shared) == {"ctx"}
    assert first.personal[0] != first.personal[1]
    second, _ = fed.run_round(first)
    _, by_hand = method.train(Broadcast(2, first.shared), toy_task.clients[2], first.personal[2])
    assert second.personal[2] == by_hand


def test_features_are_the_mixture_for_any_names(setup, toy_task, personal):
    method = PromptFolio(PromptFolioConfig(), setup)
    shared, names = method.init_shared(), ["pink", "red", "cyan"]
    by_hand = 0.8 * features(setup, shared["ctx"], names) + 0.2 * features(setup, personal["local"], names)
    found = method.class_features(shared, personal, names)
    assert torch.allclose(found, F.normalize(by_hand, dim=-1), atol=1e-6)
    assert torch.allclose(method.class_features(shared, personal, names[::-1]), found.flip(0), atol=1e-6)


def test_somebody_who_never_took_part_gets_the_shared_context_alone(setup):
    method = PromptFolio(PromptFolioConfig(), setup)
    shared, names = method.init_shared(), ["pink", "red"]
    assert len(method.init_personal(0)) == 0
    found = method.class_features(shared, NO_PROMPT, names)
    assert torch.allclose(found, features(setup, shared["ctx"], names), atol=1e-6)


def test_blending_scales_theta(setup, toy_task, personal):
    method = PromptFolio(PromptFolioConfig(), setup)
    shared, names = method.init_shared(), toy_task.base_classes
    half = method.client_features(ClientPrompt(shared, personal, 0.5, "prompt"), names)
    by_hand = 0.9 * features(setup, shared["ctx"], names) + 0.1 * features(setup, personal["local"], names)
    assert torch.allclose(half, F.normalize(by_hand, dim=-1), atol=1e-6)
    none = method.class_features(shared, method.blend(shared, personal, 0.0), names)
    assert torch.allclose(none, method.class_features(shared, NO_PROMPT, names), atol=1e-6)
    local_alone = PromptState({**personal, "theta": torch.ones(1)})
    assert torch.allclose(
        method.class_features(shared, local_alone, names), features(setup, personal["local"], names), atol=1e-6
    )


def test_two_clients_together_are_two_one_by_one(setup, toy_task, personal):
    method = PromptFolio(PromptFolioConfig(batch_size=3), setup)
    broadcast = Broadcast(1, method.init_shared())
    jobs = [(broadcast, toy_task.clients[1], NO_PROMPT), (broadcast, toy_task.clients[2], personal)]
    for (update, kept), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, alone_kept = method.train(*job)
        assert torch.allclose(update.shared["ctx"], alone.shared["ctx"], atol=1e-5)
        assert torch.allclose(kept["local"], alone_kept["local"], atol=1e-5)
