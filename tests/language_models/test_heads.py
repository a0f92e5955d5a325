"""Heads: where they start, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.errors import ConfigError
from promptfed.language_models.heads import BIAS, WEIGHT, build_head
from promptfed.language_models.insert import NO_INSERT

from ..tiny_language_models import CLASSES, language_model, split


@pytest.mark.parametrize("name", ["llama", "masked", "t5", "bert"])
def test_a_linear_head_starts_as_the_frozen_one(name):
    model, items = language_model(name), split().items
    frozen, linear = (build_head(head, model, CLASSES) for head in ("auto", "linear"))
    expected = frozen.scores({}, NO_INSERT, items, CLASSES)
    start = linear.start()
    bias = 0.0
    if name == "masked":  # the frozen word head has a bias of its own, which is zero in a fresh model
        bias = model.model.get_output_embeddings().bias[model.label_ids(CLASSES)]
    torch.testing.assert_close(linear.scores(start, NO_INSERT, items, CLASSES) + bias, expected, atol=1e-4, rtol=1e-4)
    assert start[WEIGHT].shape == (2, model.width)
    assert start[BIAS].shape == (2,)
    one = linear.scores(start, NO_INSERT, items, CLASSES[1:])
    torch.testing.assert_close(one[:, 0], linear.scores(start, NO_INSERT, items, CLASSES)[:, 1])
    with pytest.raises(ConfigError, match="'unseen' is none of them"):
        linear.scores(start, NO_INSERT, items, ("unseen",))


def test_the_loss_is_the_cross_entropy_of_the_scores():
    model, part = language_model("llama"), split()
    head = build_head("auto", model, CLASSES)
    loss, scores = head.loss({}, NO_INSERT, part.items, part.labels)
    by_hand = -scores.softmax(-1)[torch.arange(4), part.labels].log().mean()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(loss, F.cross_entropy(scores, part.labels))


def test_a_model_has_one_frozen_head():
    with pytest.raises(ConfigError, match="an encoder without a head that predicts words"):
        build_head("verbalizer", language_model("bert"), CLASSES)
    with pytest.raises(ConfigError, match="goes with encoders"):
        build_head("cosine", language_model("llama"), CLASSES)
