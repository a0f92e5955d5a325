from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from promptfed.errors import ConfigError, TrainingError
from promptfed.local_training import LocalTraining
from promptfed.prompt_state import PromptState
from promptfed.prompts.text_context import ContextConfig, ContextTuner


def test_rate_follows_the_round_not_the_number_of_calls():
    cosine = LocalTraining(lr=0.1)
    assert [round(cosine.rate(r, 4), 6) for r in (1, 2, 3, 4)] == [
        round(0.05 * (1 + math.cos(math.pi * k / 4)), 6) for k in range(4)
    ]
    assert LocalTraining(lr=0.1, schedule="constant").rate(9, 10) == 0.1


def test_one_sgd_step_is_the_gradient_of_the_papers_loss(setup, toy_task):
    config = ContextConfig(optimizer="sgd", momentum=0, lr=0.3, schedule="constant", local_epochs=1, batch_size=100)
    tuner, data = ContextTuner(config, setup), toy_task.clients[2]
    start = tuner.start()
    trained, fit = tuner.train(start, data, round=1)

    ctx = start["ctx"].clone().requires_grad_(True)
    texts = setup.backbone.encode_prompted_text(ctx, setup.backbone.class_tokens(toy_task.base_classes, 16))
    images = F.normalize(setup.features.images(data.train), dim=-1)
    loss = F.cross_entropy(10.0 * images @ F.normalize(texts, dim=-1).T, data.train.labels)
    loss.backward()
    assert torch.allclose(trained["ctx"], start["ctx"] - 0.3 * ctx.grad, atol=1e-6)
    assert fit.loss == pytest.approx(loss.item(), abs=1e-5)


def test_own_label_space_leaves_other_classes_out_of_the_softmax(setup, toy_task):
    config = ContextConfig(label_space="own", local_epochs=1, batch_size=100)
    tuner = ContextTuner(config, setup)
    _, fit = tuner.train(tuner.start(), toy_task.clients[0], round=1)
    assert fit.loss == 0.0, "a client with a single class has nothing to tell apart"
    assert fit.accuracy == 1.0


def test_training_does_not_depend_on_what_was_trained_before(setup, toy_task):
    tuner = ContextTuner(ContextConfig(), setup)
    alone, _ = tuner.train(tuner.start(), toy_task.clients[1], round=2)
    tuner.train(tuner.start(), toy_task.clients[2], round=2)
    torch.manual_seed(77)
    again, _ = tuner.train(tuner.start(), toy_task.clients[1], round=2)
    assert alone == again


def test_init_from_words_takes_their_embeddings(setup):
    tuner = ContextTuner(ContextConfig(init="a photo"), setup)
    assert tuner.n_ctx == len("a photo")
    assert torch.equal(tuner.start()["ctx"], setup.backbone.embed_words("a photo"))


def test_init_without_words_is_refused(setup, monkeypatch):
    monkeypatch.setattr(setup.backbone, "embed_words", lambda text: torch.zeros(0, 4))
    with pytest.raises(ConfigError, match="no words to start from"):
        ContextTuner(ContextConfig(init="."), setup)


def test_class_specific_context_trains_each_class_apart_and_gives_new_names_the_mean(setup, toy_task):
    config = ContextConfig(class_specific=True, optimizer="sgd", momentum=0, lr=1.0, label_space="own", local_epochs=1)
    tuner = ContextTuner(config, setup)
    start = tuner.start()
    assert start["ctx"].shape == (4, 16, 4)
    trained, _ = tuner.train(start, toy_task.clients[2], round=1)
    moved = (trained["ctx"] - start["ctx"]).abs().sum((1, 2)) > 0
    assert moved.tolist() == [False, False, True, True], "client 2 holds classes 2 and 3 only"
    unseen = tuner.context_for(trained["ctx"], ["pink", "blue"])
    assert torch.equal(unseen[0], trained["ctx"].mean(0))
    assert torch.equal(unseen[1], trained["ctx"][2])


def test_class_features_are_unit_length_and_follow_the_order_of_names(setup):
    tuner = ContextTuner(ContextConfig(), setup)
    features = tuner.class_features(tuner.start(), ["red", "pink", "blue"])
    flipped = tuner.class_features(tuner.start(), ["blue", "pink", "red"])
    assert torch.allclose(features.norm(dim=-1), torch.ones(3))
    assert torch.allclose(features, flipped.flip(0), atol=1e-6)


def test_a_loss_that_is_not_finite_names_client_and_round(setup, toy_task):
    tuner = ContextTuner(ContextConfig(), setup)
    broken = PromptState({"ctx": torch.full((16, 4), float("nan"))})
    with pytest.raises(TrainingError, match=r"client 2 in round 3 is nan.*method\.lr"):
        tuner.train(broken, toy_task.clients[2], round=3)


def test_tokens_of_some_classes_are_rows_of_all_and_few_lists_are_kept(small_clip, clip_setup, toy_task, monkeypatch):
    monkeypatch.setattr("promptfed.prompts.text_context.MOST_LISTS", 3)
    tuner = ContextTuner(ContextConfig(n_ctx=3), clip_setup)
    names = ["green", "red"]
    found, anew = tuner.tokens(names), small_clip.class_tokens(names, 3)
    assert tuner.tokens(names) is found, "kept"
    for part in ("embeddings", "slots", "end"):
        assert torch.equal(getattr(found, part), getattr(anew, part))
    for name in toy_task.base_classes:
        tuner.tokens([name])
    assert tuner.tokens(names) is not found, "forgotten"
    assert len(tuner._tokens) <= 3
