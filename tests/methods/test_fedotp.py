from __future__ import annotations

import ot
import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.build_method import build_method
from promptfed.config import RunConfig
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.federation import Federation
from promptfed.methods import fedotp
from promptfed.methods.fedotp import FedOTP, FedOTPConfig
from promptfed.prompt_state import PromptState
from promptfed.resolve import resolve
from promptfed.types import NO_PROMPT, Broadcast, Split

NAMES = ("red", "pink", "cyan")


@pytest.fixture(autouse=True)
def patches(backbone, monkeypatch):
    """The toy sees five places: its mean colour, and that with something added."""
    places = torch.randn(5, 3, generator=torch.Generator().manual_seed(8))
    places[0] = 0

    def encode(pixels):
        backbone.calls.images += len(pixels)
        return (pixels.mean((-1, -2)) - 0.5)[:, None] + 0.4 * places

    monkeypatch.setattr(backbone, "encode_patches", encode)


@pytest.fixture
def both(setup):
    """A global and a local prompt that differ."""
    method = FedOTP(FedOTPConfig(n_ctx=4), setup)
    noise = torch.Generator().manual_seed(5)
    return method.init_shared(), PromptState({"local": torch.randn(4, 4, generator=noise)})


def test_a_score_is_what_pots_plan_gains(setup, toy_task, both):
    method = FedOTP(FedOTPConfig(n_ctx=4, mass=1.0, smoothing=0.3, steps=2000, tolerance=1e-8), setup)
    shared, personal = both
    split = Split(toy_task.base_test.items[:3], toy_task.base_test.labels[:3])
    found = method.logits(shared, personal, NAMES, split)
    texts = [method.tuner.class_features(PromptState({"ctx": c}), NAMES) for c in (shared["ctx"], personal["local"])]
    patches = F.normalize(setup.features.patches(split), dim=-1)
    for i in range(3):
        for c in range(3):
            similarity = torch.stack([patches[i] @ text[c] for text in texts], dim=1).double().numpy()
            plan = ot.sinkhorn([0.2] * 5, [0.5] * 2, 1 - similarity, 0.3, numItermax=5000)
            assert found[i, c].item() == pytest.approx(10.0 * (plan * similarity).sum(), abs=1e-4)


def test_somebody_new_scores_by_the_global_prompt_alone(setup, toy_task, both):
    """The same as two prompts that are both the global one, and not the same as with a local one."""
    method, (shared, personal) = FedOTP(FedOTPConfig(n_ctx=4), setup), both
    alone = method.logits(shared, NO_PROMPT, NAMES, toy_task.new_test)
    twice = method.logits(shared, PromptState({"local": shared["ctx"]}), NAMES, toy_task.new_test)
    assert torch.allclose(alone, twice, atol=1e-3)
    start = method.logits(shared, method.blend(shared, personal, 0.0), NAMES, toy_task.new_test)
    assert torch.equal(start, twice)
    assert not torch.allclose(alone, method.logits(shared, personal, NAMES, toy_task.new_test), atol=0.05)


def test_chunks_do_not_change_scores(setup, toy_task, both, monkeypatch):
    method = FedOTP(FedOTPConfig(n_ctx=4), setup)
    whole = method.logits(*both, NAMES, toy_task.base_test)
    monkeypatch.setattr(fedotp, "CHUNK", 70)
    assert torch.allclose(whole, method.logits(*both, NAMES, toy_task.base_test), atol=1e-5)


def test_scores_follow_the_order_of_class_names(setup, toy_task, both):
    method = FedOTP(FedOTPConfig(n_ctx=4), setup)
    found = method.logits(*both, NAMES, toy_task.base_test)
    assert torch.allclose(found.flip(1), method.logits(*both, NAMES[::-1], toy_task.base_test), atol=1e-5)


def test_no_images_no_scores(setup, both):
    nothing = Split((), torch.zeros(0, dtype=torch.int64))
    assert FedOTP(FedOTPConfig(n_ctx=4), setup).logits(*both, NAMES, nothing).shape == (0, 3)


def test_one_sgd_step_takes_the_gradient_with_the_plan_held_fixed(setup, toy_task, both):
    shared, personal = both
    options = {"optimizer": "sgd", "momentum": 0, "lr": 0.1, "schedule": "constant", "local_epochs": 1}
    method = FedOTP(FedOTPConfig(n_ctx=4, batch_size=100, **options), setup)
    data = toy_task.clients[2]
    update, kept = method.train(Broadcast(1, shared), data, personal)

    contexts = [t.clone().requires_grad_(True) for t in (shared["ctx"], personal["local"])]
    tokens = setup.backbone.class_tokens(toy_task.base_classes, 4)
    texts = [F.normalize(setup.backbone.encode_prompted_text(ctx, tokens), dim=-1) for ctx in contexts]
    similarity = F.normalize(setup.features.patches(data.train), dim=-1)[:, None] @ torch.stack(texts, -1)
    plan = fedotp.transport_plan(similarity.mT, 0.8, 0.1)
    F.cross_entropy(10.0 * (plan * similarity.mT).sum((-2, -1)), data.train.labels).backward()
    assert torch.allclose(update.shared["ctx"], shared["ctx"] - 0.1 * contexts[0].grad, atol=1e-5)
    assert torch.allclose(kept["local"], personal["local"] - 0.1 * contexts[1].grad, atol=1e-5)


def test_only_the_global_context_is_sent(setup, toy_task):
    method = FedOTP(FedOTPConfig(n_ctx=4), setup)
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))
    state = fed.start()
    for _ in range(2):
        state, replies = fed.run_round(state)
        assert all(list(reply.update.shared) == ["ctx"] and not reply.failure for reply in replies)
    assert list(state.shared) == ["ctx"]
    locals_ = [state.personal[k]["local"] for k in range(3)]
    assert not torch.equal(locals_[0], locals_[1])
    assert not torch.equal(locals_[1], locals_[2])


def test_clients_side_by_side_end_where_each_would_alone(setup, toy_task):
    method = FedOTP(FedOTPConfig(n_ctx=4), setup)
    jobs = [(Broadcast(1, method.init_shared()), data, NO_PROMPT) for data in toy_task.clients[1:]]
    for (update, personal), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, own = method.train(*job)
        assert torch.allclose(update.shared["ctx"], alone.shared["ctx"], atol=1e-5)
        assert torch.allclose(personal["local"], own["local"], atol=1e-5)


def test_class_features_are_the_mean_direction_of_both_prompts(setup, both):
    method, (shared, personal) = FedOTP(FedOTPConfig(n_ctx=4), setup), both
    ends = [method.tuner.class_features(PromptState({"ctx": c}), NAMES) for c in (shared["ctx"], personal["local"])]
    by_hand = F.normalize(ends[0] + ends[1], dim=-1)
    assert torch.allclose(method.class_features(shared, personal, NAMES), by_hand, atol=1e-6)
    assert torch.allclose(method.class_features(shared, NO_PROMPT, NAMES), ends[0], atol=1e-6)


def test_a_backbone_without_patches_and_a_mass_above_one_are_refused(setup):
    with pytest.raises(ConfigError, match="'fedotp' needs a backbone with patch features"):
        build_method("fedotp", {}, setup)
    with pytest.raises(ConfigError, match="mass"):
        resolve(RunConfig(method="fedotp", method_options={"mass": 1.5}))
