from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.methods.dpfpl import DPFPL, DPFPLConfig, factorised, personal_part
from promptfed.types import NO_PROMPT, Broadcast, ClientPrompt

ONE_STEP = {
    "optimizer": "sgd", "momentum": 0, "lr": 0.3, "schedule": "constant", "local_epochs": 1, "batch_size": 100,
}  # fmt: skip


@pytest.fixture
def method(setup):
    return DPFPL(DPFPLConfig(rank=2), setup)


@pytest.fixture
def personal(method, toy_task):
    """What client 2 keeps after a round."""
    return method.train(Broadcast(1, method.init_shared()), toy_task.clients[2], NO_PROMPT)[1]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(setup, ctx, names):
    texts = setup.backbone.encode_prompted_text(ctx, setup.backbone.class_tokens(names, len(ctx)))
    return F.normalize(texts, dim=-1)


def test_the_parts_add_up_and_the_residual_is_what_the_factors_cannot_say():
    prompt = noise(6, 5)
    parts = factorised(prompt, noise(2, 5, seed=1))
    assert torch.allclose(personal_part(parts), prompt, atol=1e-6)
    assert torch.allclose(parts["u"].T @ parts["u"], torch.eye(2), atol=1e-6)
    assert torch.allclose(parts["u"].T @ parts["residual"], torch.zeros(2, 5), atol=1e-6)


def test_a_prompt_of_the_rank_has_no_residual():
    parts = factorised(noise(6, 2) @ noise(2, 5, seed=1), noise(2, 5, seed=2))
    assert parts["residual"].abs().max() < 1e-5


def test_the_first_column_by_hand():
    """Rank one: u is prompt probe^T at unit length, pointing the same way."""
    prompt, probe = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[1.0, 1.0]])
    parts = factorised(prompt, probe)
    assert parts["u"].flatten().tolist() == pytest.approx([0.6, 0.8])
    assert parts["v"].flatten().tolist() == pytest.approx([1.8, 3.2])


def test_one_sgd_step_goes_down_each_part_and_then_factorises_anew(setup, toy_task, personal):
    method, data = DPFPL(DPFPLConfig(rank=2, **ONE_STEP), setup), toy_task.clients[2]
    shared = method.init_shared()
    update, kept = method.train(Broadcast(2, shared), data, personal)

    p_g = shared["ctx"].clone().requires_grad_(True)
    u, v, rest = (personal[name].clone().requires_grad_(True) for name in ("u", "v", "residual"))
    images = F.normalize(setup.features.images(data.train), dim=-1)
    texts = features(setup, p_g + u @ v + rest, toy_task.base_classes)
    loss = F.cross_entropy(10 * images @ texts.T, data.train.labels)
    loss.backward()
    stepped = (u - 0.3 * u.grad) @ (v - 0.3 * v.grad) + rest - 0.3 * rest.grad
    assert update.loss == pytest.approx(loss.item(), abs=1e-5)
    assert torch.allclose(update.shared["ctx"], shared["ctx"] - 0.3 * p_g.grad, atol=1e-6)
    assert torch.allclose(personal_part(kept), stepped, atol=1e-6)
    assert torch.allclose(kept["u"].T @ kept["u"], torch.eye(2), atol=1e-5)


def test_the_first_round_starts_from_the_shared_context(setup, toy_task):
    method, data = DPFPL(DPFPLConfig(rank=2, **ONE_STEP), setup), toy_task.clients[2]
    shared = method.init_shared()
    update, _ = method.train(Broadcast(1, shared), data, NO_PROMPT)
    logits = method.logits(shared, NO_PROMPT, toy_task.base_classes, data.train)
    assert update.loss == pytest.approx(F.cross_entropy(logits, data.train.labels).item(), abs=1e-5)


def test_only_the_shared_context_is_sent(method, toy_task):
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))
    state = fed.start()
    for _ in range(2):
        state, replies = fed.run_round(state)
        assert all(set(reply.update.shared) == {"ctx"} and not reply.failure for reply in replies)
    assert set(state.shared) == {"ctx"}
    shapes = {name: tuple(t.shape) for name, t in state.personal[1].items()}
    assert shapes == {"residual": (16, 4), "u": (16, 2), "v": (2, 4)}
    assert state.personal[0] != state.personal[1]


def test_features_are_those_of_the_sum_for_any_names(method, setup, personal):
    shared, names = method.init_shared(), ["pink", "red"]
    added = personal_part(personal)
    for alpha, state in ((0.0, NO_PROMPT), (1.0, personal), (0.25, method.blend(shared, personal, 0.25))):
        by_hand = features(setup, shared["ctx"] + alpha * added, names)
        assert torch.allclose(method.class_features(shared, state, names), by_hand, atol=1e-6)
    quarter = method.client_features(ClientPrompt(shared, personal, 0.25, "prompt"), names)
    assert torch.allclose(quarter, features(setup, shared["ctx"] + 0.25 * added, names), atol=1e-6)


def test_training_again_gives_the_same_factors_whatever_came_before(method, toy_task):
    job = Broadcast(2, method.init_shared()), toy_task.clients[2], NO_PROMPT
    first = method.train(*job)[1]
    method.train(Broadcast(2, method.init_shared()), toy_task.clients[1], NO_PROMPT)
    torch.manual_seed(77)
    assert method.train(*job)[1] == first


def test_two_clients_together_are_two_one_by_one(setup, toy_task, personal):
    method = DPFPL(DPFPLConfig(rank=2, batch_size=3), setup)
    broadcast = Broadcast(1, method.init_shared())
    jobs = [(broadcast, toy_task.clients[1], NO_PROMPT), (broadcast, toy_task.clients[2], personal)]
    for (update, kept), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, alone_kept = method.train(*job)
        assert torch.allclose(update.shared["ctx"], alone.shared["ctx"], atol=1e-5)
        assert (kept - alone_kept).norm() < 1e-4


def test_a_context_of_three_tokens_has_factors_of_rank_three_and_no_residual(setup, toy_task):
    method = DPFPL(DPFPLConfig(rank=8, n_ctx=3), setup)
    _, kept = method.train(Broadcast(1, method.init_shared()), toy_task.clients[2], NO_PROMPT)
    assert kept["u"].shape == (3, 3)
    assert kept["residual"].abs().max() < 1e-5
    assert kept["v"].abs().max() > 0
