from __future__ import annotations

import math

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
from promptfed.methods.fedmgp import FedMGP, FedMGPConfig, likeness, similarities
from promptfed.prompt_state import PromptState
from promptfed.runs.checkpoint import load_checkpoint, save_checkpoint
from promptfed.types import NO_PROMPT, Broadcast

ONE_STEP = {
    "optimizer": "sgd", "momentum": 0, "lr": 0.5, "schedule": "constant", "local_epochs": 1, "batch_size": 100,
}  # fmt: skip


def make(setup, **options):
    return FedMGP(FedMGPConfig(**{"groups": 4, "init": "", "spread": 0.3, **options}), setup)


def shaken(state, size=0.5):
    noise = torch.Generator().manual_seed(3)
    return state.map(lambda t: t + size * torch.randn(t.shape, generator=noise))


def federation(method, task):
    return Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, task)), range(3))


# ------------------------------------------------------------------------------------------- formulas by hand


def test_how_alike_groups_are_by_hand():
    """Three groups, one row: units (1, 0), (0, 1), (0.6, 0.8); lengths do not count."""
    features = torch.tensor([[[2.0, 0.0]], [[0.0, 3.0]], [[0.6, 0.8]]])
    assert likeness(features, "cosine").item() == pytest.approx((0.0 + 0.6 + 0.8) / 3)
    distances = (1 + 1) / 2, (0.4 + 0.8) / 2, (0.6 + 0.2) / 2
    assert likeness(features, "l1").item() == pytest.approx(-sum(distances) / 3)


@pytest.mark.parametrize("measure", ["l1", "cosine"])
def test_a_step_on_the_diversity_loss_drives_groups_apart(measure):
    """In the released code its absolute value is added, which draws them together."""
    features = shaken(PromptState({"x": torch.ones(3, 2, 5)}), 0.1)["x"].requires_grad_(True)
    before = likeness(features, measure)
    before.backward()
    assert likeness(features.detach() - 0.1 * features.grad, measure) < before


def test_similarities_by_hand_and_texts_and_images_count_alike():
    shared = {"ctx": torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), "visual": torch.tensor([[[1.0, 0.0]], [[0.0, -1.0]]])}
    groups = {"ctx": torch.tensor([[[3.0, 4.0]], [[-2.0, 0.0]]]), "visual": torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]]])}
    # Cosines to both global groups. Group 0: text .6, .8; image 0, -1. Group 1: text -1, 0; image 1, 0.
    found = similarities(groups, shared)
    assert found.tolist() == pytest.approx([max((0.6 + 0) / 2, (0.8 - 1) / 2), max((-1 + 1) / 2, 0.0)])
    assert similarities({"ctx": groups["ctx"]}, shared).tolist() == pytest.approx([0.8, 0.0])


def drawn(method, groups, shared, rounds, data):
    """The places that are drawn in ``rounds`` from trained ``groups``."""
    places = []
    for round in rounds:
        _, kept = method.split_update(groups, Broadcast(round, shared), data, NO_PROMPT)
        places.append(kept["places"].tolist())
    return places


def test_groups_are_drawn_by_similarity_without_replacement(setup, toy_task):
    data = toy_task.clients[0]
    method = make(setup, n_visual=0, sent=2, groups=3, temperature=0.5, n_ctx=1)
    shared = PromptState({"ctx": torch.tensor([[[1.0, 0, 0, 0]], [[1.0, 0, 0, 0]]])})
    groups = PromptState({"ctx": torch.tensor([[[1.0, 0, 0, 0]], [[0, 1.0, 0, 0]], [[-1.0, 0, 0, 0]]])})
    weights = [math.exp(2), math.exp(0), math.exp(-2)]
    p = [weight / sum(weights) for weight in weights]
    places = drawn(method, groups, shared, range(2, 2002), data=data)
    assert all(len(set(pair)) == 2 for pair in places)
    for i in range(3):
        for j in set(range(3)) - {i}:
            share = sum(pair == [i, j] for pair in places) / len(places)
            assert share == pytest.approx(p[i] * p[j] / (1 - p[i]), abs=0.03)
    again = drawn(method, groups, shared, range(2, 12), data=data)
    assert again == places[:10], "a draw is that of its seed, round and client"
    cold = make(setup, n_visual=0, sent=2, groups=3, temperature=1e-4, n_ctx=1)
    assert drawn(cold, groups, shared, range(2, 20), data=data) == [[0, 1]] * 18


def test_in_the_first_round_all_groups_are_as_likely(setup, toy_task):
    counts = torch.zeros(3)
    for seed in range(600):
        method = make(setup.agreeing(seed=seed), n_visual=0, sent=1, groups=3, temperature=1e-4)
        [[place]] = drawn(method, method.start(), method.init_shared(), [1], data=toy_task.clients[0])
        counts[place] += 1
    assert (counts / 600).tolist() == pytest.approx([1 / 3] * 3, abs=0.06)


# ------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("n_visual", [0, 2])
@pytest.mark.parametrize("measure", ["l1", "cosine"])
def test_one_step_is_the_gradient_of_the_formula(promptable_setup, toy_task, n_visual, measure):
    method = make(promptable_setup, n_visual=n_visual, diversity=0.7, diversity_measure=measure, **ONE_STEP)
    data, backbone = toy_task.clients[2], promptable_setup.backbone
    shared = shaken(method.init_shared())
    personal = PromptState({**shaken(method.start(), 1.0), "places": torch.tensor([3, 1])})
    update, kept = method.train(Broadcast(1, shared), data, personal)

    leaf = {name: personal[name].clone() for name in shared}
    for name, tensor in leaf.items():
        tensor[3], tensor[1] = shared[name]
        tensor.requires_grad_(True)
    pixels, tokens = promptable_setup.features.pixels(data.train), backbone.class_tokens(toy_task.base_classes, 2)
    loss, sides = torch.zeros(()), ([], [])
    for g in range(4):
        text = F.normalize(backbone.encode_prompted_text(leaf["ctx"][g], tokens), dim=-1)
        image = (
            backbone.encode_prompted_images(pixels, leaf["visual"][g]).features
            if n_visual
            else promptable_setup.features.images(data.train)
        )
        image = F.normalize(image, dim=-1)
        loss = loss + F.cross_entropy(10 * image @ text.T, data.train.labels) / 4
        sides[0].append(text)
        sides[1].append(image)
    for side in sides[: 2 if n_visual else 1]:
        pairs = [(side[i], side[j]) for i in range(4) for j in range(i)]
        alike = [(a * b).sum(-1).mean() if measure == "cosine" else -(a - b).abs().mean() for a, b in pairs]
        loss = loss + 0.7 * sum(alike) / 6 / (2 if n_visual else 1)
    loss.backward()
    assert update.loss == pytest.approx(loss.item(), abs=1e-5)
    for name, tensor in leaf.items():
        expected = tensor.detach() - 0.5 * tensor.grad
        torch.testing.assert_close(kept[name], expected, atol=1e-5, rtol=1e-4)
        assert tensor.grad.abs().max() > 1e-4
        assert torch.equal(update.shared[name], kept[name][kept["places"]])


def test_only_the_groups_drawn_are_sent_and_their_shapes_are_these(clip_setup, toy_task):
    method = FedMGP(FedMGPConfig(), clip_setup)
    shared = method.init_shared()
    assert {name: tuple(tensor.shape) for name, tensor in shared.items()} == {"ctx": (2, 2, 20), "visual": (2, 2, 16)}
    update, kept = method.train(Broadcast(1, shared), toy_task.clients[2], NO_PROMPT)
    assert {name: tuple(tensor.shape) for name, tensor in update.shared.items()} == method.uploads(2, shared)
    assert {name: tuple(tensor.shape) for name, tensor in kept.items()} == {
        "ctx": (5, 2, 20), "visual": (5, 2, 16), "places": (2,),
    }  # fmt: skip
    numbers = sum(tensor.numel() for tensor in update.shared.values())
    assert numbers == 2 * 2 * (20 + 16), "of width 512 and 768 that is the paper's 5.1 thousand"


def test_a_client_puts_what_it_is_sent_where_it_drew_from(promptable_setup, toy_task):
    method = make(promptable_setup)
    shared = shaken(method.init_shared())
    personal = PromptState({**shaken(method.start(), 1.0), "places": torch.tensor([2, 0])})
    groups = method.groups(shared, personal)
    for name in shared:
        assert torch.equal(groups[name][2], shared[name][0])
        assert torch.equal(groups[name][0], shared[name][1])
        assert torch.equal(groups[name][[1, 3]], personal[name][[1, 3]])
        assert torch.equal(method.groups(shared, NO_PROMPT)[name], shared[name])


def test_a_group_starts_from_words_with_a_little_noise(clip_setup):
    method = FedMGP(FedMGPConfig(), clip_setup)
    words = clip_setup.backbone.embed_words("a photo")
    noise = method.start()["ctx"] - words
    assert 0.005 < noise.std() < 0.015
    prompted = method._prompted(words, ["cat"])
    whole = clip_setup.backbone.encode_text(["a photo of a cat."])
    torch.testing.assert_close(clip_setup.backbone.encode_prompted_texts([prompted])[0], whole, atol=1e-5, rtol=1e-4)


def test_prediction_is_the_mean_of_the_groups_logits(promptable_setup, toy_task):
    method, split, names = make(promptable_setup), toy_task.base_test, toy_task.new_classes
    shared = shaken(method.init_shared())
    personal = PromptState({**shaken(method.start(), 1.0), "places": torch.tensor([3, 1])})
    backbone = promptable_setup.backbone
    groups, tokens = method.groups(shared, personal), backbone.class_tokens(names, 2)
    pixels = promptable_setup.features.pixels(split)
    each = [
        cosine_logits(
            backbone.encode_prompted_images(pixels, groups["visual"][g]).features,
            backbone.encode_prompted_text(groups["ctx"][g], tokens),
            10.0,
        )
        for g in range(4)
    ]
    torch.testing.assert_close(method.logits(shared, personal, names, split), sum(each) / 4, atol=1e-5, rtol=1e-4)


def test_clients_side_by_side_learn_what_they_learn_alone(promptable_setup, toy_task):
    method = make(promptable_setup, batch_size=3)
    shared = shaken(method.init_shared())
    jobs = [(Broadcast(1, shared), toy_task.clients[k], NO_PROMPT) for k in (0, 2)]
    for job, (update, kept) in zip(jobs, method.train_many(jobs), strict=True):
        alone, kept_alone = method.train(*job)
        assert (update.shared - alone.shared).norm() < 1e-5
        assert torch.equal(kept["places"], kept_alone["places"])


def test_a_federation_from_a_checkpoint_ends_with_the_same_bits(promptable_setup, toy_task, tmp_path):
    method = make(promptable_setup, lr=0.05)
    fed = federation(method, toy_task)
    state, replies = fed.run_round(fed.start())
    sent = [reply.update.shared for reply in replies]
    for name in ("ctx", "visual"):
        mean = (3 * sent[0][name] + 4 * sent[1][name] + 10 * sent[2][name]) / 17
        torch.testing.assert_close(state.shared[name], mean)
    save_checkpoint(tmp_path, state, events_bytes=0)
    restored = load_checkpoint(tmp_path).state
    whole, _ = fed.run_round(state)
    again, _ = federation(make(promptable_setup, lr=0.05), toy_task).run_round(restored)
    assert whole.shared == again.shared
    assert all(whole.personal[client] == again.personal[client] for client in range(3))
    assert whole.personal[0]["places"].dtype == torch.int64


# ----------------------------------------------------------------------------------------------------- errors


def test_a_tower_without_visual_prompts_is_refused_with_the_way_out(setup):
    with pytest.raises(ConfigError, match=r"visual prompts, which 'toy' has not.*--set method\.n_visual=0"):
        build_method("fedmgp", {}, setup)
    assert build_method("fedmgp", {"n_visual": 0}, setup).reads_texts_only


def test_more_groups_sent_than_there_are_is_refused(setup):
    with pytest.raises(ConfigError, match=r"'sent' is 3, but a client has 2 groups.*--set method\.sent=2"):
        make(setup, n_visual=0, groups=2, sent=3)
