from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.build_method import build_method
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.federation import Federation
from promptfed.methods.maple import MaPLe, MaPLeConfig, visual_tokens
from promptfed.types import NO_PROMPT, Broadcast

SGD = {"optimizer": "sgd", "momentum": 0, "lr": 0.3, "schedule": "constant", "local_epochs": 1, "batch_size": 100}


def make(setup, **options):
    return MaPLe(MaPLeConfig(**options), setup)


def shaken(state, size=0.3):
    noise = torch.Generator().manual_seed(3)
    return state.map(lambda t: t + size * torch.randn(t.shape, generator=noise))


def test_visual_tokens_are_the_linear_image_of_the_text_contexts_depth_by_depth(clip_setup):
    prompt = shaken(make(clip_setup).init_shared())
    ctx, deep = visual_tokens(prompt)
    found = torch.cat([ctx[None], deep])
    for d in range(3):
        by_hand = F.linear(prompt["ctx"][d], prompt["weight"][d], prompt["bias"][d])
        torch.testing.assert_close(found[d], by_hand, atol=1e-5, rtol=1e-5)
    only, none = visual_tokens({name: tensor[:1] for name, tensor in prompt.items()})
    assert torch.equal(only, visual_tokens(prompt)[0])
    assert none is None


def test_the_start_has_the_papers_shapes_words_at_depth_0_and_one_coupling_at_all_depths(clip_setup):
    shared = make(clip_setup).init_shared()
    assert {name: tuple(t.shape) for name, t in shared.items()} == {
        "ctx": (3, 2, 20),
        "weight": (3, 16, 20),
        "bias": (3, 16),
    }
    assert torch.equal(shared["ctx"][0], clip_setup.backbone.embed_words("a photo"))
    assert shared["ctx"][1:].abs().max() < 0.1
    assert shared["ctx"][1:].std().item() == pytest.approx(0.02, rel=0.3)
    for name in ("weight", "bias"):
        assert torch.equal(shared[name][0], shared[name][2])
        assert shared[name].abs().max() <= 20**-0.5
        assert shared[name].std().item() == pytest.approx(20**-0.5 / 3**0.5, rel=0.3)
    assert len(make(clip_setup).init_personal(0)) == 0
    assert make(clip_setup, init="", n_ctx=5, depth=1).init_shared()["ctx"].shape == (1, 5, 20)
    assert make(clip_setup).init_shared() == shared


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("coupling_rate", [1.0, 0.1])
def test_one_step_is_the_gradient_of_the_cross_entropy_through_both_towers(clip_setup, toy_task, depth, coupling_rate):
    method, data = make(clip_setup, **SGD, depth=depth, coupling_rate=coupling_rate), toy_task.clients[2]
    start = shaken(method.init_shared())
    update, kept = method.train(Broadcast(1, start), data, NO_PROMPT)

    leaf = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    backbone = clip_setup.backbone
    tokens = [F.linear(leaf["ctx"][d], leaf["weight"][d], leaf["bias"][d]) for d in range(depth)]
    deep_images = torch.stack(tokens[1:]) if depth > 1 else None
    deep_texts = leaf["ctx"][1:] if depth > 1 else None
    images = backbone.encode_prompted_images(clip_setup.features.pixels(data.train), tokens[0], deep_images).features
    names = backbone.class_tokens([f"of a {name}" for name in toy_task.base_classes], 2)
    texts = backbone.encode_prompted_text(leaf["ctx"][0], names, deep_texts)
    cosines = F.cosine_similarity(images[:, None], texts[None], dim=-1)
    loss = F.cross_entropy(backbone.logit_scale * cosines, data.train.labels)
    loss.backward()
    for name, tensor in start.items():
        rate = 0.3 * (1 if name == "ctx" else coupling_rate)
        torch.testing.assert_close(update.shared[name], tensor - rate * leaf[name].grad, atol=1e-5, rtol=1e-4)
        assert all(part.abs().max() > 1e-6 for part in leaf[name].grad), "every depth learns"
    assert update.loss == pytest.approx(loss.item(), abs=1e-5)
    assert len(kept) == 0


def test_everything_is_sent_and_averaged_by_sample_count(clip_setup, toy_task):
    method = make(clip_setup)
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))
    state, replies = fed.run_round(fed.start())
    assert not [r.failure for r in replies if r.failure]
    for name in ("ctx", "weight", "bias"):
        sent = [r.update.shared[name].double() for r in replies]
        by_hand = (3 * sent[0] + 4 * sent[1] + 10 * sent[2]) / 17
        torch.testing.assert_close(state.shared[name].double(), by_hand, atol=1e-6, rtol=0)
        assert not torch.equal(sent[0], sent[1])


def test_clients_together_are_as_one_by_one(clip_setup, toy_task):
    method = make(clip_setup)
    jobs = [(Broadcast(1, method.init_shared()), data, NO_PROMPT) for data in toy_task.clients[:2]]
    for (joint, _), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, _ = method.train(*job)
        for name in alone.shared:
            torch.testing.assert_close(joint.shared[name], alone.shared[name], atol=1e-5, rtol=1e-5)


def test_it_predicts_with_both_prompts_for_any_names_in_any_order(clip_setup, toy_task):
    method = make(clip_setup)
    shared, split = shaken(method.init_shared()), toy_task.new_test
    classes = ["pink", "cyan", "red"]
    found = method.logits(shared, NO_PROMPT, classes, split)
    ctx, deep = visual_tokens(shared)
    images = clip_setup.backbone.encode_prompted_images(clip_setup.features.pixels(split), ctx, deep).features
    texts = method.class_features(shared, NO_PROMPT, classes)
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(3))
    expected = clip_setup.backbone.logit_scale * F.cosine_similarity(images[:, None], texts[None], dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    flipped = method.logits(shared, NO_PROMPT, classes[::-1], split)
    torch.testing.assert_close(found, flipped.flip(1), atol=1e-4, rtol=1e-4)
    plain = texts @ F.normalize(clip_setup.features.images(split), dim=-1).T * clip_setup.backbone.logit_scale
    assert (found - plain.T).abs().max() > 1e-2, "images are seen with the prompt"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "of a "),
        ({"n_ctx": 3}, "a "),
        ({"n_ctx": 4}, ""),
        ({"init": "a bad blurry photo of one", "n_ctx": 4}, "of one "),
        ({"init": ""}, ""),
        ({"keep_words": False}, ""),
    ],
)
def test_words_that_the_context_does_not_replace_stay_before_the_class_name(clip_setup, options, words):
    """The released code at n_ctx 2: "a photo" is learned, "of a NAME." follows."""
    method = make(clip_setup, **options)
    shared, names = shaken(method.init_shared()), ["pink", "red panda"]
    backbone = clip_setup.backbone
    tokens = backbone.class_tokens([words + name for name in names], method.config.n_ctx)
    texts = backbone.encode_prompted_text(shared["ctx"][0], tokens, shared["ctx"][1:])
    torch.testing.assert_close(method.class_features(shared, NO_PROMPT, names), F.normalize(texts, dim=-1))


def test_images_are_encoded_once_for_several_class_lists(clip_setup, toy_task):
    method, calls = make(clip_setup), clip_setup.backbone.calls
    shared, before = method.init_shared(), clip_setup.backbone.calls.images
    for classes in (toy_task.base_classes, toy_task.base_classes[:2], ("pink", "cyan")):
        method.logits(shared, NO_PROMPT, classes, toy_task.base_test)
    assert calls.images - before == len(toy_task.base_test)


def test_training_lowers_the_loss_over_everybodys_images(clip_setup, toy_task):
    method = make(clip_setup)
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))

    def loss(shared):
        parts = [
            F.cross_entropy(method.logits(shared, NO_PROMPT, toy_task.base_classes, c.train), c.train.labels)
            for c in toy_task.clients
        ]
        return float(sum(parts))

    state = fed.start()
    before = loss(state.shared)
    for _ in range(3):
        state, _ = fed.run_round(state)
    assert loss(state.shared) < before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 4}, "'depth' is 4: the towers of 'small' have 3 .text. and 3 .image. blocks; choose 1 to 3"),
        ({"n_ctx": 6}, "'init' is 'a photo of a', of 4 tokens, but n_ctx is 6"),
    ],
)
def test_options_that_do_not_fit_are_refused(clip_setup, options, words):
    with pytest.raises(ConfigError, match=words):
        make(clip_setup, **options)


def test_a_backbone_without_visual_prompts_is_refused_by_name(setup):
    with pytest.raises(ConfigError, match=r"'maple' needs a backbone with deep text prompts and visual prompts.*'toy'"):
        build_method("maple", {}, setup)
