"""Nested prompts: which tokens learn from which length."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from promptfed.build_method import build_method
from promptfed.errors import ConfigError
from promptfed.types import NO_PROMPT, Broadcast

from ..tiny_language_models import CLASSES, client, setup

NAME = "prompt_embeddings"


@pytest.fixture(scope="module")
def method():
    return build_method("fedmrl", {"n_tokens": 4, "lengths": (1, 2, 4), "deployed": 2}, setup())


def gradient(method, lengths, rows=4):
    """Of the sum of the cross-entropies at ``lengths``, by the plain formula."""
    data, prompt = client(), method.init_shared()[NAME].clone().requires_grad_()
    for m in lengths:
        tensors = {NAME: prompt[:m]}
        scores = method.head.scores(tensors, method.kind.insert(tensors), data.train.items, CLASSES)
        F.cross_entropy(scores, data.train.labels).backward()
    return prompt.grad


def test_each_token_learns_from_the_lengths_that_have_it(method):
    shared = method.init_shared()
    prompt = shared[NAME].clone().requires_grad_()
    value, _ = method.problem(Broadcast(1, shared), client(), NO_PROMPT).loss({NAME: prompt}, [], torch.arange(4))
    value.backward()
    torch.testing.assert_close(3 * prompt.grad, gradient(method, (1, 2, 4)))
    torch.testing.assert_close(3 * prompt.grad[2:], gradient(method, (4,))[2:])
    assert prompt.grad[3].abs().max() > 0


def test_every_length_learns_the_probabilities_that_stand_for_labels(method):
    data, shared = client(), method.init_shared()
    targets = torch.tensor([[0.3, 0.7], [0.9, 0.1], [0.5, 0.5], [1.0, 0.0]])
    guesses = replace(data, train=replace(data.train, targets=targets))
    value, _ = method.problem(Broadcast(1, shared), guesses, NO_PROMPT).loss(dict(shared), [], torch.arange(4))
    terms = [
        F.cross_entropy(method.scores_with({NAME: shared[NAME][:m]}, CLASSES, data.train), targets) for m in (1, 2, 4)
    ]
    torch.testing.assert_close(value, sum(terms) / 3)


def test_the_first_tokens_alone_predict(method):
    shared, data = method.init_shared(), client()
    deployed = method.logits(shared, NO_PROMPT, CLASSES, data.test)
    short = method.scores_with({NAME: shared[NAME][:2]}, CLASSES, data.test)
    torch.testing.assert_close(deployed, short)


@pytest.mark.parametrize("options", [{"lengths": (1, 3)}, {"lengths": (2, 1, 4)}, {"deployed": 5}])
def test_lengths_that_make_no_sense_are_one_line(options):
    with pytest.raises(ConfigError, match=r"n_tokens|rise") as error:
        build_method("fedmrl", {"n_tokens": 4, "lengths": (1, 4), **options}, setup())
    assert "\n" not in str(error.value)
