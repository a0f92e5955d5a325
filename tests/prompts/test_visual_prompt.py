from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureStore
from promptfed.prompts import visual_prompt as visual
from promptfed.prompts.visual_prompt import prompted_images, start_visual, visual_features
from promptfed.types import Split


def test_the_start_is_small_noise_from_its_own_stream(clip_setup):
    tokens = start_visual(clip_setup, 400)
    assert tokens.shape == (400, 16)
    assert tokens.std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(tokens.mean().item()) < 1e-3
    torch.manual_seed(5)
    assert torch.equal(start_visual(clip_setup, 400), tokens)
    assert not torch.equal(start_visual(clip_setup, 400, "other"), tokens)
    assert not torch.equal(start_visual(clip_setup.agreeing(seed=1), 400), tokens)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_split_in_parts_is_as_all_at_once(clip_setup, make_split, depth):
    split = make_split(0, [0, 1, 2, 3, 1, 2, 0])
    ctx = start_visual(clip_setup, 2) * 30
    deep = start_visual(clip_setup, 2, "deep")[None] * 30 if depth > 1 else None
    whole = clip_setup.backbone.encode_prompted_images(clip_setup.features.pixels(split), ctx, deep)
    for batch in (1, 3, 64):
        found = visual_features(clip_setup, split, ctx, deep, batch=batch)
        torch.testing.assert_close(found.features, whole.features, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.attention, whole.attention, atol=1e-5, rtol=1e-5)
    some = prompted_images(clip_setup, split, torch.tensor([5, 0]), ctx, deep)
    torch.testing.assert_close(some.features, whole.features[[5, 0]], atol=1e-5, rtol=1e-5)


def test_the_same_split_and_prompt_are_encoded_once(clip_setup, make_split):
    split, other = make_split(0, [0, 1, 2]), make_split(0, [0, 1, 2])
    calls, ctx = clip_setup.backbone.calls, start_visual(clip_setup, 2)
    deep = start_visual(clip_setup, 2, "deep")[None]

    def cost(*asked):
        before = calls.images
        visual_features(clip_setup, *asked)
        return calls.images - before

    assert cost(split, ctx) == 3
    assert cost(split, ctx.clone()) == 0, "the values count, not the tensor"
    assert cost(split, ctx, deep) == 3
    assert cost(split, deep[0]) == 3
    assert cost(split, ctx + 1e-6) == 3
    assert cost(other, ctx) == 3, "another split may have other images"
    assert cost(split, ctx) == 0
    elsewhere = replace(clip_setup, model=DualEncoder(FeatureStore(clip_setup.backbone, clip_setup.features.cache)))
    visual_features(elsewhere, split, ctx)
    assert cost(split, ctx) == 0


@pytest.mark.slow
def test_a_split_that_is_gone_is_never_mistaken_for_a_new_one(clip_setup, make_split):
    ctx = start_visual(clip_setup, 2)
    for labels in ([0, 0], [1, 1], [2, 2], [3, 3]):  # a new split may be given the address of an old one
        split = make_split(0, labels)
        found = visual_features(clip_setup, split, ctx).features
        expected = clip_setup.backbone.encode_prompted_images(clip_setup.features.pixels(split), ctx).features
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        del split
        gc.collect()


def test_memory_is_bounded_and_the_longest_unused_goes_first(clip_setup, make_split, monkeypatch):
    split = make_split(0, [0, 1, 2])
    prompts = [start_visual(clip_setup, 2, k) for k in range(3)]
    monkeypatch.setattr(visual, "KEPT_BYTES", 2 * 3 * (12 + 2) * 4)  # two answers: features and attention
    for ctx in (prompts[0], prompts[1], prompts[0], prompts[2]):
        visual_features(clip_setup, split, ctx)
    before = clip_setup.backbone.calls.images
    visual_features(clip_setup, split, prompts[0])
    visual_features(clip_setup, split, prompts[2])
    assert clip_setup.backbone.calls.images == before
    visual_features(clip_setup, split, prompts[1])
    assert clip_setup.backbone.calls.images == before + 3


def test_what_was_made_in_inference_mode_can_be_trained_on(clip_setup, make_split):
    split, ctx = make_split(0, [0, 1]), start_visual(clip_setup, 2)
    with torch.inference_mode():
        visual_features(clip_setup, split, ctx)
    found = visual_features(clip_setup, split, ctx.requires_grad_()).features
    assert not found.requires_grad
    weight = torch.ones(12, requires_grad=True)
    (found @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, found.sum(0))


def test_a_split_without_images_has_no_features(clip_setup):
    found = visual_features(clip_setup, Split((), torch.empty(0, dtype=torch.long)), start_visual(clip_setup, 2))
    assert found.features.shape == (0, 12)
    assert found.attention.shape == (0, 2)
