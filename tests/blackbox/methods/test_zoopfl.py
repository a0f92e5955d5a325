from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from promptfed.blackbox.base import ClientOracle
from promptfed.blackbox.methods.zoopfl import ZooPFL, ZooPFLConfig, centred, pretrained, remap_gradient
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast

PERSONAL = {"embedding", "weight", "bias"}


def make(setup, **options):
    usual = {
        "queries": 80,
        "batch_size": 4,
        "n_tokens": 2,
        "rank": 3,
        "hidden": 4,
        "pattern": 2,
        "latent": 3,
        "probes": 1,
    }
    return ZooPFL(ZooPFLConfig(**{**usual, **options}), setup)


def trained(method, data, round=1, shared=None, personal=None):
    sent = method.init_shared() if shared is None else shared
    return method.train(Broadcast(round, sent), data, personal or method.init_personal(data.client))


def random(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------ re-mapping


def test_the_re_mapping_s_gradient_is_autograd_s():
    weight, bias = random(0, 4, 4).requires_grad_(), random(1, 4).requires_grad_()
    inputs, labels, own = random(2, 6, 4), torch.tensor([0, 2, 3, 2, 2, 0]), torch.tensor([0, 2, 3])
    mapped = (inputs @ weight.T + bias)[:, own]
    each = F.cross_entropy(mapped, torch.tensor([0, 1, 2, 1, 1, 0]), reduction="none")
    loss = torch.stack([each[labels == label].mean() for label in own]).mean()
    by_autograd = torch.autograd.grad(loss, (weight, bias))
    for found, expected in zip(
        remap_gradient(weight.detach(), bias.detach(), inputs, labels, own), by_autograd, strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_classes_that_are_not_held_are_left_as_they_are(black_setup, text_task):
    data = replace(text_task.clients[0], classes=(1,))
    method = make(black_setup)
    start = method.init_personal(0)
    assert method.remapped(start, random(3, 5, 2), torch.ones(5, dtype=torch.int64), data) == start


def test_the_re_mapping_learns_without_a_query(black_setup, text_task):
    method, data = make(black_setup, remap_steps=200, remap_decay=0.0), text_task.clients[0]
    desk = ClientOracle(method, 1, data, 4)
    rows = torch.arange(4)
    scores, labels = desk.scores([method.candidate(method.init_shared(), NO_PROMPT)], rows)
    left, asked = desk.left, method.oracle.usage()
    start = method.init_personal(0)
    found = method.remapped(start, scores[0], labels, data)
    assert (desk.left, method.oracle.usage()) == (left, asked)
    before, after = (F.cross_entropy(method.adjusted(scores[0], p), labels) for p in (start, found))
    assert after < before / 2
    assert method.remapped(start, scores[0] * 1000, labels, data).is_finite()


def test_decay_alone_brings_the_re_mapping_back(black_setup, text_task):
    method = make(black_setup, remap_lr=0.5, remap_decay=0.5, remap_steps=60)
    far = PromptState({**method.init_personal(0), "weight": 5 * torch.eye(2), "bias": torch.ones(2)})
    back = method.remapped(far, torch.zeros(2, 2), torch.tensor([0, 1]), text_task.clients[0])
    torch.testing.assert_close(back["weight"], torch.eye(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(back["bias"], torch.zeros(2), atol=1e-4, rtol=0)


# ----------------------------------------------------------------------------------------------- pre-training


def test_pre_training_follows_the_reconstruction_s_gradient():
    encoder, features = random(0, 3, 7).requires_grad_(), random(1, 10, 7)
    loss = (features - features @ encoder.T @ encoder).square().sum(1).mean()
    [slope] = torch.autograd.grad(loss, encoder)
    torch.testing.assert_close(pretrained(encoder.detach(), features, 1, 0.01), encoder.detach() - 0.01 * slope)


def test_pre_training_finds_the_principal_components():
    features = F.normalize(random(2, 40, 3) @ random(3, 3, 9), dim=1)  # in a space of three dimensions
    start = torch.linalg.qr(random(4, 9, 3)).Q.T
    found = pretrained(start, features, 2000, 0.3)
    torch.testing.assert_close(features @ found.T @ found, features, atol=1e-3, rtol=0)


def test_the_encoder_is_pre_trained_once_without_queries_and_then_neither_moved_nor_sent(black_setup, text_task):
    method = make(black_setup, queries=1)  # not enough for a step
    update, _ = trained(method, text_task.clients[0])
    assert method.oracle.usage().oracle_queries == 0
    assert not torch.equal(update.shared["encoder"], method.raw_encoder)
    shared = update.shared
    assert set(method.uploads(0, shared)) == {"W1", "W2", "b1", "b2"}
    again, _ = trained(make(black_setup), text_task.clients[0], 2, shared)
    assert set(again.shared) == {"W1", "W2", "b1", "b2"}
    moving = make(black_setup, train_encoder=True)
    later, _ = trained(moving, text_task.clients[0], 2, shared)
    assert not torch.equal(later.shared["encoder"], shared["encoder"])


# ------------------------------------------------------------------------------------------- the whole method


def test_what_is_personal_never_travels(black_setup, text_task):
    method = make(black_setup)
    update, personal = trained(method, text_task.clients[0])
    assert set(personal) == PERSONAL
    assert not PERSONAL & set(update.shared)
    assert set(update.shared) == set(method.uploads(0, method.init_shared()))
    assert (personal - method.init_personal(0)).norm() > 0


def test_somebody_who_never_took_part_gets_plain_scores(black_setup, text_task):
    method = make(black_setup)
    shared, split = method.init_shared(), text_task.base_test
    plain = method.oracle.score([method.candidate(shared, NO_PROMPT)], split.items, ["cold", "hot"])[0]
    assert torch.equal(method.logits(shared, NO_PROMPT, ["cold", "hot"], split), plain)
    beginner = method.logits(shared, method.init_personal(0), ["cold", "hot"], split)
    torch.testing.assert_close(beginner.softmax(1), plain.softmax(1))


def test_scores_are_re_mapped_before_classes_are_picked(black_setup, text_task):
    method, split = make(black_setup), text_task.base_test
    swapped = PromptState({**method.init_personal(0), "weight": torch.tensor([[0.0, 1.0], [1.0, 0.0]])})
    both = method.logits(method.init_shared(), swapped, ["cold", "hot"], split)
    plain = method.logits(method.init_shared(), NO_PROMPT, ["cold", "hot"], split)
    torch.testing.assert_close(both, centred(plain).flip(1))
    assert torch.equal(method.logits(method.init_shared(), swapped, ["hot"], split), both[:, 1:])


def test_new_classes_get_plain_scores(bright_setup, picture_task):
    method, split = make(bright_setup), picture_task.base_test
    odd = PromptState({**method.init_personal(0), "weight": torch.full((2, 2), 9.0)})
    found = method.logits(method.init_shared(), odd, ["hot", "warm"], split)
    items = split.items
    prompt = method.candidate_on(method.init_shared(), odd, items)
    assert torch.equal(found, method.oracle.score([prompt], items, ["hot", "warm"])[0])


@pytest.mark.parametrize("side", ["text", "pixels"])
def test_every_example_and_every_client_gets_an_edit_of_its_own(
    black_setup, bright_setup, text_task, picture_task, side
):
    setup, task = (black_setup, text_task) if side == "text" else (bright_setup, picture_task)
    method = make(setup)
    shared = method.init_shared().map(lambda t: t + random(5, *t.shape))
    prompts = [
        method.candidate_on(shared, PromptState({**method.init_personal(0), "embedding": e}), task.base_test.items)
        for e in (torch.zeros(4), torch.ones(4))
    ]
    edits = [prompt.soft if side == "text" else prompt.pixels for prompt in prompts]
    assert len(edits[0]) == len(task.base_test)
    assert not torch.equal(edits[0][0], edits[0][-1])
    assert not torch.equal(edits[0][0], edits[1][0])


def test_it_asks_for_no_more_than_its_allowance(black_setup, text_task):
    method = make(black_setup, queries=31)
    trained(method, text_task.clients[0])
    step = 2 * method.config.probes * 4  # both sides of each probe, on four examples
    assert method.oracle.usage().oracle_queries == 31 // step * step > 0


def test_blending_goes_from_nothing_of_its_own_to_all(black_setup, text_task):
    method = make(black_setup)
    update, personal = trained(method, text_task.clients[0])
    plain = method.blend(update.shared, personal, 0.0)
    assert plain == method.init_personal(0)
    assert method.blend(update.shared, personal, 1.0) == personal


@pytest.mark.parametrize("options", [{}, {"clients": [1]}, {"dropout": 0.5, "rounds": 3}, {"participation": 0.3}])
@pytest.mark.parametrize("side", ["text", "pixels"])
def test_federations_of_any_size_are_repeatable(
    black_setup, bright_setup, text_task, picture_task, federate, options, side
):
    setup, task = (black_setup, text_task) if side == "text" else (bright_setup, picture_task)
    first, second = (federate(make(setup), task, **options) for _ in range(2))
    assert first.shared == second.shared
    assert first.personal == second.personal
    assert set(first.shared) == set(make(setup).init_shared())
    assert (first.shared - make(setup).init_shared()).norm() > 0


def test_clients_do_not_depend_on_each_other(black_setup, text_task):
    one = [trained(make(black_setup), data) for data in text_task.clients]
    other = [trained(make(black_setup), data) for data in reversed(text_task.clients)]
    assert [(update.shared, kept) for update, kept in one] == [(update.shared, kept) for update, kept in other[::-1]]


def test_it_learns_that_texts_say_too_cold(black_setup, text_task, federate):
    method = make(black_setup, queries=160)
    state = federate(method, text_task, rounds=3)
    split = text_task.base_test
    before, newcomer, client = (
        F.cross_entropy(method.logits(*pair, ["cold", "hot"], split), split.labels).item()
        for pair in ((method.init_shared(), NO_PROMPT), (state.shared, NO_PROMPT), (state.shared, state.personal[0]))
    )
    assert newcomer < before
    assert client < before
