from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.build_method import build_method
from promptfed.cosines import cosine_logits
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.federation import Federation
from promptfed.methods.feddpt import FedDPT, FedDPTConfig
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.prompts.visual_prompt import visual_features
from promptfed.types import NO_PROMPT, Broadcast


def make(setup, **options):
    return FedDPT(FedDPTConfig(**{"n_ctx": 3, **options}), setup)


def shaken(state, size=0.5):
    """Different in every tensor, so that no two domains' prompts are alike."""
    noise = torch.Generator().manual_seed(3)
    return state.map(lambda t: t + size * torch.randn(t.shape, generator=noise))


def one_step(setup, **options):
    """The method, a client's data, and what comes of a single SGD step of rate 1 from a shaken start."""
    sgd = {"optimizer": "sgd", "momentum": 0, "lr": 1.0, "local_epochs": 1, "batch_size": 100, "schedule": "constant"}
    method = make(setup, **sgd, **options)
    return method, shaken(method.init_shared())


def by_hand(method, visual, texts, classes, data):
    """Logits of ``data.train``: every image's own mixture of unit text features, built at full size."""
    backbone = method.setup.backbone
    seen = backbone.encode_prompted_images(method.setup.features.pixels(data.train), visual)
    features = [F.normalize(backbone.encode_prompted_text(t, backbone.class_tokens(classes, 3)), dim=-1) for t in texts]
    mixed = sum(seen.attention[:, k, None, None] * features[k] for k in range(len(features)))
    return F.cosine_similarity(seen.features[:, None], mixed, dim=-1)


@pytest.mark.parametrize("loss", ["cross_entropy", "cosine"])
def test_one_step_is_the_gradient_of_the_mixture_s_loss(promptable_setup, toy_task, loss):
    method, start = one_step(promptable_setup, loss=loss)
    data = toy_task.clients[1]
    update, _ = method.train(Broadcast(1, start), data, NO_PROMPT)

    leaf = {name: tensor.clone().requires_grad_(True) for name, tensor in start.items()}
    texts = [leaf[f"text/{k}"] for k in range(3)]
    cosines = by_hand(method, leaf["visual"], texts, toy_task.base_classes, data)
    labels = data.train.labels
    expected = (
        F.cross_entropy(10.0 * cosines, labels)
        if loss == "cross_entropy"
        else (1 - cosines.gather(1, labels[:, None])).mean()
    )
    expected.backward()
    for name in ("text/1", "visual"):
        torch.testing.assert_close(update.shared[name], start[name] - leaf[name].grad, atol=1e-5, rtol=1e-4)
        assert leaf[name].grad.abs().max() > 1e-4
    assert update.loss == pytest.approx(expected.item(), abs=1e-5)


def test_a_client_sends_its_own_domain_s_text_prompt_and_the_visual_one_and_keeps_the_others(
    promptable_setup, toy_task
):
    method, start = one_step(promptable_setup)
    update, kept = method.train(Broadcast(1, start), toy_task.clients[1], method.init_personal(1))
    assert set(update.shared) == {"text/1", "visual"} == set(method.uploads(1, start))
    assert set(kept) == {"text/0", "text/2"}
    assert update.shared["visual"].shape == (3, 3), "as many visual tokens as domains"
    assert update.shared["text/1"].shape == (3, 4)


def test_copies_of_other_domains_move_by_momentum_and_by_nothing_else(promptable_setup, toy_task):
    method, downloaded = one_step(promptable_setup, external_momentum=0.9)
    before = shaken(method.init_personal(1), 2.0)
    _, kept = method.train(Broadcast(4, downloaded), toy_task.clients[1], before)
    for name in ("text/0", "text/2"):
        torch.testing.assert_close(kept[name], 0.9 * before[name] + 0.1 * downloaded[name], atol=1e-6, rtol=1e-5)


def test_the_server_puts_text_prompts_side_by_side_and_averages_the_visual_ones(promptable_setup, toy_task):
    setup = promptable_setup.agreeing(domains=("a", "b", "a"))
    method = make(setup, lr=0.1)
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))
    state, replies = fed.run_round(fed.start())
    assert not any(reply.failure for reply in replies)
    sent = [reply.update.shared for reply in replies]
    assert set(state.shared) == {"text/0", "text/1", "visual"}
    torch.testing.assert_close(state.shared["text/0"], (3 * sent[0]["text/0"] + 10 * sent[2]["text/0"]) / 13)
    assert torch.equal(state.shared["text/1"], sent[1]["text/1"])
    visual = (3 * sent[0]["visual"] + 4 * sent[1]["visual"] + 10 * sent[2]["visual"]) / 17
    torch.testing.assert_close(state.shared["visual"], visual)


def test_texts_are_encoded_once_a_class_and_domain_whatever_the_number_of_images(promptable_setup, toy_task):
    method = make(promptable_setup, local_epochs=3, batch_size=100)
    shared = method.init_shared()
    calls = promptable_setup.backbone.calls
    before = calls.texts
    method.train(Broadcast(1, shared), toy_task.clients[2], method.init_personal(2))
    assert calls.texts - before == 2 * 4 + 3 * 4, "two other domains once, the own one in each of three steps"
    for split in (toy_task.base_test, toy_task.clients[0].test):
        before = calls.texts
        method.logits(shared, NO_PROMPT, toy_task.base_classes, split)
        assert calls.texts - before == 3 * 4


def test_prediction_mixes_by_attention_and_needs_no_domain(promptable_setup, toy_task):
    method, shared = one_step(promptable_setup)
    data = toy_task.clients[2]
    texts = [shared[f"text/{k}"] for k in range(3)]
    for classes in (toy_task.base_classes, toy_task.new_classes):
        expected = 10.0 * by_hand(method, shared["visual"], texts, classes, data)
        found = method.logits(shared, NO_PROMPT, classes, data.train)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        flipped = method.logits(shared, NO_PROMPT, classes[::-1], data.train)
        torch.testing.assert_close(found, flipped.flip(1), atol=1e-5, rtol=1e-5)


def test_a_client_predicts_with_its_copies_of_the_other_domains(promptable_setup, toy_task):
    method, shared = one_step(promptable_setup)
    personal = shaken(method.init_personal(0), 2.0)
    together = PromptState({**shared, **personal})
    split = toy_task.base_test
    found = method.logits(shared, personal, toy_task.base_classes, split)
    assert torch.equal(found, method.logits(together, NO_PROMPT, toy_task.base_classes, split))
    half = method.blend(shared, personal, 0.5)
    torch.testing.assert_close(half["text/1"], (shared["text/1"] + personal["text/1"]) / 2)
    assert set(half) == {"text/1", "text/2"}
    assert torch.equal(method.blend(shared, personal, 0.0)["text/2"], shared["text/2"])


def test_with_a_single_domain_the_text_side_is_promptfl(promptable_setup, toy_task):
    setup = promptable_setup.agreeing(domains=("one", "one", "one"))
    method, split = make(setup), toy_task.base_test
    shared = method.init_shared()
    plain = PromptFL(PromptFLConfig(n_ctx=3), setup)
    features = plain.class_features(plain.init_shared(), NO_PROMPT, toy_task.base_classes)
    torch.testing.assert_close(method.class_features(shared, NO_PROMPT, toy_task.base_classes), features)
    seen = visual_features(setup, split, shared["visual"])
    found = method.logits(shared, NO_PROMPT, toy_task.base_classes, split)
    torch.testing.assert_close(found, cosine_logits(seen.features, features, 10.0), atol=1e-4, rtol=1e-4)
    assert len(method.init_personal(0)) == 0


def test_clients_side_by_side_learn_what_they_learn_alone(promptable_setup, toy_task):
    method = make(promptable_setup, batch_size=3)
    shared = shaken(method.init_shared())
    jobs = [(Broadcast(1, shared), toy_task.clients[k], method.init_personal(k)) for k in (0, 2)]
    for job, (update, kept) in zip(jobs, method.train_many(jobs), strict=True):
        alone, kept_alone = method.train(*job)
        assert (update.shared - alone.shared).norm() < 1e-5
        assert kept == kept_alone


def test_it_says_so_where_images_cannot_be_prompted(setup):
    with pytest.raises(ConfigError, match=r"feddpt.*needs a backbone with visual prompts.*toy"):
        build_method("feddpt", {}, setup)
