from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.build_method import build_method
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.federation import Federation
from promptfed.methods.tpfl import ATPFL, TPFL, ATPFLConfig, TPFLConfig, contrast
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast

SGD = {"optimizer": "sgd", "momentum": 0, "lr": 0.3, "schedule": "constant", "local_epochs": 1, "batch_size": 100}


def tpfl(setup, **options):
    return TPFL(TPFLConfig(**{"n_ctx": 3, "n_visual": 2, **options}), setup)


def atpfl(setup, **options):
    return ATPFL(ATPFLConfig(**{"n_ctx": 3, "n_visual": 2, **options}), setup)


def shaken(state, seed=3, size=0.5):
    noise = torch.Generator().manual_seed(seed)
    return state.map(lambda t: t + size * torch.randn(t.shape, generator=noise))


def images_of(setup, data, visual):
    return setup.backbone.encode_prompted_images(setup.features.pixels(data.train), visual).features


def cross_entropy(setup, data, classes, leaf):
    images = images_of(setup, data, leaf["visual"])
    texts = setup.backbone.encode_prompted_text(leaf["ctx"], setup.backbone.class_tokens(classes, 3))
    cosines = F.cosine_similarity(images[:, None], texts[None], dim=-1)
    return F.cross_entropy(setup.backbone.logit_scale * cosines, data.train.labels)


def leaves(state):
    return {name: tensor.clone().requires_grad_() for name, tensor in state.items()}


def assert_stepped(update, start, leaf):
    for name, tensor in start.items():
        torch.testing.assert_close(update.shared[name], tensor - 0.3 * leaf[name].grad, atol=1e-5, rtol=1e-4)
        assert leaf[name].grad.abs().max() > 1e-5


def test_one_step_is_the_gradient_of_the_cross_entropy_in_both_prompts(clip_setup, toy_task):
    method, data = tpfl(clip_setup, **SGD), toy_task.clients[2]
    start = shaken(method.init_shared())
    update, kept = method.train(Broadcast(1, start), data, NO_PROMPT)
    leaf = leaves(start)
    loss = cross_entropy(clip_setup, data, toy_task.base_classes, leaf)
    loss.backward()
    assert_stepped(update, start, leaf)
    assert update.loss == pytest.approx(loss.item(), abs=1e-5)
    assert len(kept) == 0


def test_contrast_by_hand():
    z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    near, far = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 3.0], [0.0, 3.0]])
    # cosines: (1, 0) and (0, 1); at temperature 0.5 the exponents are 2 and 0
    first, second = -math.log(math.e**2 / (math.e**2 + 1)), -math.log(1 / (1 + math.e**2))
    assert contrast(z, near, far, 0.5).item() == pytest.approx((first + second) / 2, abs=1e-6)
    assert contrast(z, near, near, 0.5).item() == pytest.approx(math.log(2), abs=1e-6)


def test_atpfl_adds_the_contrast_to_what_was_sent_and_to_its_own_last_prompt(clip_setup, toy_task):
    method, data = atpfl(clip_setup, **SGD, mu=0.7, temperature=0.2), toy_task.clients[2]
    start = shaken(method.init_shared())
    personal = PromptState({"visual": shaken(start, seed=8)["visual"]})
    update, kept = method.train(Broadcast(2, start), data, personal)

    leaf = leaves(start)
    z = images_of(clip_setup, data, leaf["visual"])
    near = F.cosine_similarity(z, images_of(clip_setup, data, start["visual"]), dim=-1)
    far = F.cosine_similarity(z, images_of(clip_setup, data, personal["visual"]), dim=-1)
    term = -torch.log((near / 0.2).exp() / ((near / 0.2).exp() + (far / 0.2).exp())).mean()
    loss = cross_entropy(clip_setup, data, toy_task.base_classes, leaf) + 0.7 * term
    loss.backward()
    assert_stepped(update, start, leaf)
    assert update.loss == pytest.approx(loss.item(), abs=1e-5)
    assert kept == PromptState({"visual": update.shared["visual"]})

    without, _ = tpfl(clip_setup, **SGD).train(Broadcast(2, start), data, NO_PROMPT)
    assert (without.shared["visual"] - update.shared["visual"]).abs().max() > 1e-5
    torch.testing.assert_close(without.shared["ctx"], update.shared["ctx"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kept", ["nothing", "what was sent"])
def test_without_a_last_prompt_of_its_own_atpfl_is_tpfl(clip_setup, toy_task, kept):
    start, data = shaken(tpfl(clip_setup).init_shared()), toy_task.clients[0]
    personal = NO_PROMPT if kept == "nothing" else PromptState({"visual": start["visual"]})
    one_step = {**SGD, "local_epochs": 1}
    mine, _ = atpfl(clip_setup, **one_step).train(Broadcast(1, start), data, personal)
    plain, _ = tpfl(clip_setup, **one_step).train(Broadcast(1, start), data, NO_PROMPT)
    for name in start:
        torch.testing.assert_close(mine.shared[name], plain.shared[name], atol=1e-6, rtol=1e-5)


def test_the_fixed_features_of_the_contrast_are_encoded_once_a_round(clip_setup, toy_task):
    method, data, calls = atpfl(clip_setup, local_epochs=3), toy_task.clients[2], clip_setup.backbone.calls
    start = method.init_shared()
    personal, before = PromptState({"visual": shaken(start)["visual"]}), calls.images
    method.train(Broadcast(2, start), data, personal)
    assert calls.images - before == (3 + 2) * len(data.train)


@pytest.mark.parametrize("make", [tpfl, atpfl])
def test_rounds_send_both_prompts_average_them_and_keep_the_last_visual_one(clip_setup, toy_task, make):
    method = make(clip_setup)
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))
    start = fed.start()
    assert {name: tuple(t.shape) for name, t in start.shared.items()} == {"ctx": (3, 20), "visual": (2, 16)}
    assert all(len(personal) == 0 for personal in start.personal.values())
    state, _ = fed.run_round(start)
    state, replies = fed.run_round(state)
    assert not [r.failure for r in replies if r.failure]
    for name in ("ctx", "visual"):
        sent = [r.update.shared[name].double() for r in replies]
        by_hand = (3 * sent[0] + 4 * sent[1] + 10 * sent[2]) / 17
        torch.testing.assert_close(state.shared[name].double(), by_hand, atol=1e-6, rtol=0)
    for reply in replies:
        mine = state.personal[reply.client]
        assert mine == (PromptState({"visual": reply.update.shared["visual"]}) if make is atpfl else NO_PROMPT)


@pytest.mark.parametrize("make", [tpfl, atpfl])
def test_clients_together_are_as_one_by_one(clip_setup, toy_task, make):
    method = make(clip_setup)
    start = method.init_shared()
    jobs = []
    for data in toy_task.clients[:2]:
        last = PromptState({"visual": shaken(start, seed=data.client)["visual"]})
        jobs.append((Broadcast(1, start), data, last if make is atpfl else NO_PROMPT))
    for (joint, _), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, _ = method.train(*job)
        for name in alone.shared:
            torch.testing.assert_close(joint.shared[name], alone.shared[name], atol=1e-5, rtol=1e-5)


def test_everybody_predicts_with_the_shared_twin_prompts(clip_setup, toy_task):
    method = atpfl(clip_setup)
    shared, split, classes = shaken(method.init_shared()), toy_task.new_test, ["pink", "cyan", "red"]
    images = clip_setup.backbone.encode_prompted_images(clip_setup.features.pixels(split), shared["visual"]).features
    texts = method.class_features(shared, NO_PROMPT, classes)
    expected = clip_setup.backbone.logit_scale * F.cosine_similarity(images[:, None], texts[None], dim=-1)
    found = method.logits(shared, NO_PROMPT, classes, split)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(method.logits(shared, PromptState({"visual": shared["visual"] + 1}), classes, split), found)
    flipped = method.logits(shared, NO_PROMPT, classes[::-1], split)
    torch.testing.assert_close(found, flipped.flip(1), atol=1e-4, rtol=1e-4)


def test_a_class_specific_text_context_works_and_new_names_get_the_mean(clip_setup, toy_task):
    method = tpfl(clip_setup, class_specific=True)
    update, _ = method.train(Broadcast(1, method.init_shared()), toy_task.clients[2], NO_PROMPT)
    assert update.shared["ctx"].shape == (4, 3, 20)
    assert method.logits(update.shared, NO_PROMPT, ["pink", "red"], toy_task.new_test).shape == (10, 2)


@pytest.mark.parametrize("name", ["tpfl", "atpfl"])
def test_a_backbone_without_visual_prompts_is_refused_by_name(setup, name):
    with pytest.raises(ConfigError, match=f"'{name}' needs a backbone with visual prompts, which 'toy' has not"):
        build_method(name, {}, setup)
