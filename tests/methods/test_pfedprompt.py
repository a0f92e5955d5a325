from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.mean import Mean
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.methods.pfedprompt import STRENGTHS, PFedPrompt, PFedPromptConfig
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, ClientPrompt


@pytest.fixture
def method(setup):
    return PFedPrompt(PFedPromptConfig(alpha=2.0, choose_alpha=False), setup)


def trained(method, data, round=1):
    return method.train(Broadcast(round, method.init_shared()), data, NO_PROMPT)


def test_training_and_what_is_sent_are_those_of_promptfl(method, setup, toy_task):
    theirs = PromptFL(PromptFLConfig(), setup)
    for data in toy_task.clients:
        update, _ = trained(method, data)
        expected, _ = theirs.train(Broadcast(1, theirs.init_shared()), data, NO_PROMPT)
        assert update == expected


def test_the_memory_is_the_clients_images_and_labels(method, setup, toy_task):
    data = toy_task.clients[2]
    _, kept = trained(method, data)
    assert torch.equal(kept["keys"], F.normalize(setup.features.images(data.train), dim=-1))
    assert kept["labels"].tolist() == data.train.labels.tolist() == [2] * 5 + [3] * 5
    assert kept["alpha"].tolist() == [2.0]


def test_no_image_feature_travels_in_any_round(setup, toy_task):
    method = PFedPrompt(PFedPromptConfig(), setup)
    fed = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))
    state = fed.start()
    for _ in range(2):
        state, replies = fed.run_round(state)
        for reply in replies:
            assert not reply.failure
            assert {name: tuple(t.shape) for name, t in reply.update.shared.items()} == {"ctx": (16, 4)}
            assert reply.update.shared.nbytes < 500
    assert set(state.shared) == {"ctx"}
    assert set(state.personal[1]) == {"alpha", "keys", "labels"}


def test_logits_are_the_formula_worked_out_by_hand(method, setup, make_split):
    """Two remembered images, at cosines 1 and 0.6 to the image asked about."""
    split = make_split(5, [0])
    image = F.normalize(setup.features.images(split)[0], dim=0)
    aside = torch.linalg.cross(image, F.normalize(torch.tensor([1.0, 2.0, 3.0]), dim=0))
    other = 0.6 * image + 0.8 * F.normalize(aside, dim=0)
    memory = PromptState(
        {"keys": torch.stack([image, other]), "labels": torch.tensor([0, 2]), "alpha": torch.tensor([2.0])}
    )
    shared, names = method.init_shared(), ["blue", "green", "red", "pink"]
    text = 10 * image @ method.class_features(shared, NO_PROMPT, names).T
    votes = torch.tensor([2 * math.exp(-5.5 * 0.4), 0, 2, 0])
    assert torch.allclose(method.logits(shared, memory, names, split)[0], text + votes, atol=1e-4)


def test_two_shots_of_a_class_vote_together(setup, make_split):
    method, split = PFedPrompt(PFedPromptConfig(), setup), make_split(5, [0])
    key = F.normalize(setup.features.images(split), dim=-1)
    memory = PromptState({"keys": key.expand(2, -1), "labels": torch.zeros(2), "alpha": torch.ones(1)})
    shared = method.init_shared()
    gain = method.logits(shared, memory, ["red"], split) - method.logits(shared, NO_PROMPT, ["red"], split)
    assert gain.item() == pytest.approx(2.0, abs=1e-5)


def test_new_classes_and_newcomers_get_the_text_term_alone(method, toy_task):
    shared, (_, kept) = method.init_shared(), trained(method, toy_task.clients[1])
    for names, split in ((toy_task.new_classes, toy_task.new_test), (toy_task.base_classes, toy_task.base_test)):
        text = PromptFL(PromptFLConfig(), method.setup).logits(shared, NO_PROMPT, names, split)
        assert torch.equal(method.logits(shared, NO_PROMPT, names, split), text)
    assert torch.equal(
        method.logits(shared, kept, toy_task.new_classes, toy_task.new_test),
        method.logits(shared, NO_PROMPT, toy_task.new_classes, toy_task.new_test),
    )


def test_logits_follow_the_order_of_the_names(method, toy_task):
    shared, (_, kept) = method.init_shared(), trained(method, toy_task.clients[2])
    names = list(toy_task.base_classes)
    forward = method.logits(shared, kept, names, toy_task.base_test)
    backward = method.logits(shared, kept, names[::-1], toy_task.base_test)
    assert torch.allclose(forward, backward.flip(1), atol=1e-5)


def test_half_the_way_is_the_same_in_both_spaces(method, toy_task):
    shared, (_, kept) = method.init_shared(), trained(method, toy_task.clients[2])
    by_space = [
        method.client_logits(ClientPrompt(shared, kept, 0.5, space), toy_task.base_classes, toy_task.base_test)
        for space in ("prompt", "features")
    ]
    assert torch.allclose(*by_space, atol=1e-5)
    assert method.blend(shared, kept, 0.5)["alpha"].item() == 1.0


def test_alpha_is_chosen_on_validation_images_and_the_smallest_of_the_best(setup, toy_task):
    method, data = PFedPrompt(PFedPromptConfig(), setup), toy_task.clients[2]
    _, kept = trained(method, data)
    names = [toy_task.base_classes[i] for i in data.classes]
    right = {}
    for alpha in STRENGTHS:
        tried = PromptState({**kept, "alpha": torch.tensor([alpha])})
        guesses = method.logits(method.init_shared(), tried, names, data.val).argmax(-1)
        right[alpha] = int((guesses + 2 == data.val.labels).sum())
    best = max(right.values())
    assert best > right[0.0], "blue and ochre: the untrained text is no match for ten remembered images"
    assert kept["alpha"].item() == pytest.approx(min(a for a in STRENGTHS if right[a] == best))


def test_without_validation_images_alpha_is_the_one_given(setup, toy_task, make_split):
    data = replace(toy_task.clients[2], val=make_split(0, []))
    assert trained(PFedPrompt(PFedPromptConfig(alpha=0.7), setup), data)[1]["alpha"].item() == pytest.approx(0.7)


def test_two_clients_together_are_two_one_by_one(method, toy_task):
    jobs = [(Broadcast(1, method.init_shared()), data, NO_PROMPT) for data in toy_task.clients[:2]]
    for (update, kept), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, alone_kept = method.train(*job)
        assert torch.allclose(update.shared["ctx"], alone.shared["ctx"], atol=1e-5)
        assert kept == alone_kept
