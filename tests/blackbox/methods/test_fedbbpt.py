from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from promptfed.blackbox.methods.fedbbpt import FedBBPT, FedBBPTConfig
from promptfed.blackbox.soft.prompt_generator import flat, shaped
from promptfed.errors import ConfigError
from promptfed.seeding import numpy_stream
from promptfed.types import NO_PROMPT, Broadcast


def make(setup, **options):
    usual = {"queries": 80, "batch_size": 4, "n_tokens": 2, "rank": 3, "hidden": 4, "pattern": 2, "c": 0.5, "probes": 1}
    return FedBBPT(FedBBPTConfig(**{**usual, **options}), setup)


def trained(method, data, round=1):
    return method.train(Broadcast(round, method.init_shared()), data, NO_PROMPT)


def loss_of(method, state, data, rows):
    items = [data.train.items[i] for i in rows]
    scores = method.oracle.score([method.candidate_on(state, NO_PROMPT, items)], items, method.setup.classes)[0]
    return F.cross_entropy(scores, data.train.labels[rows]).item()


@pytest.mark.parametrize("side", ["text", "pixels"])
def test_one_step_is_spall_s_formula(side, black_setup, bright_setup, text_task, picture_task):
    setup, task = (black_setup, text_task) if side == "text" else (bright_setup, picture_task)
    method = make(setup, queries=8, lr=0.3, c=0.5, clip=1e9, side=side)
    data, start = task.clients[1], method.init_shared()
    stream = numpy_stream(0, "search", "Fed-BBPT", 1, 1)
    theta = flat(start)
    signs = stream.choice([-1.0, 1.0], size=len(theta))
    rows = stream.choice(len(data.train), 4, replace=False)
    plus, minus = (loss_of(method, shaped(theta + sign * 0.5 * signs, start), data, rows) for sign in (1, -1))
    expected = theta - 0.3 * (plus - minus) / (2 * 0.5) * signs
    update, personal = trained(method, data)
    np.testing.assert_allclose(flat(update.shared), expected, atol=1e-5)
    assert (len(personal), update.samples) == (0, len(data.train))
    assert abs(plus - minus) > 1e-3


def test_two_probes_are_averaged_on_one_minibatch(black_setup, text_task):
    method, data = make(black_setup, queries=16, lr=0.3, c=0.5, clip=1e9, probes=2), text_task.clients[0]
    start = method.init_shared()
    stream, theta = numpy_stream(0, "search", "Fed-BBPT", 1, 0), flat(start)
    signs = [stream.choice([-1.0, 1.0], size=len(theta)) for _ in range(2)]
    rows = stream.choice(4, 4, replace=False)
    slopes = [
        loss_of(method, shaped(theta + 0.5 * d, start), data, rows)
        - loss_of(method, shaped(theta - 0.5 * d, start), data, rows)
        for d in signs
    ]
    expected = theta - 0.3 * (slopes[0] * signs[0] + slopes[1] * signs[1]) / 2
    np.testing.assert_allclose(flat(trained(method, data)[0].shared), expected, atol=1e-5)


def test_a_new_generator_changes_nothing(black_setup, bright_setup, text_task, picture_task):
    text, pixels = make(black_setup), make(bright_setup)
    assert torch.equal(text.candidate(text.init_shared(), NO_PROMPT).soft, torch.zeros(2, 4))
    items = picture_task.base_test.items
    prompt = pixels.candidate_on(pixels.init_shared(), NO_PROMPT, items)
    assert prompt.text == "a photo of a"
    assert torch.equal(prompt.pixels, torch.zeros(len(items), 3, 8, 8))


def test_it_makes_another_pattern_for_another_image(bright_setup, picture_task):
    method = make(bright_setup)
    state = shaped(np.random.default_rng(0).normal(size=len(flat(method.init_shared()))), method.init_shared())
    items = picture_task.base_test.items[:3]
    pixels = method.candidate_on(state, NO_PROMPT, items).pixels
    assert pixels.shape == (3, 3, 8, 8)
    assert not torch.equal(pixels[0], pixels[1])
    torch.testing.assert_close(method.candidate_on(state, NO_PROMPT, items[:1]).pixels[0], pixels[0])
    scores = method.oracle.score([method.candidate_on(state, NO_PROMPT, items)], items, ["hot"])[0]
    found = method.logits(state, NO_PROMPT, ["hot"], replace(picture_task.base_test, items=items))
    torch.testing.assert_close(found, scores)


def test_who_needs_nothing_but_the_prompt(black_setup, bright_setup):
    assert make(black_setup).sends_one_prompt
    assert not make(bright_setup).sends_one_prompt


def test_an_oracle_that_takes_neither_is_refused(black_setup, backend):
    backend.abilities = frozenset({"text prompts"})
    with pytest.raises(ConfigError, match="'toy' takes neither: use minilm"):
        make(black_setup)
    with pytest.raises(ConfigError, match="pixel prompts"):
        make(black_setup, side="pixels")
    with pytest.raises(ConfigError, match="soft prompts"):
        make(black_setup, side="text")


def test_it_stays_small_at_its_defaults(black_setup, bright_setup):
    for setup in (black_setup, bright_setup):
        assert sum(t.numel() for t in FedBBPT(FedBBPTConfig(), setup).init_shared().values()) <= 10_000


def test_it_asks_for_no_more_than_its_allowance(black_setup, text_task):
    method = make(black_setup, queries=31)
    trained(method, text_task.clients[0])
    assert method.oracle.usage().oracle_queries == 24
    too_few = make(black_setup, queries=7)
    assert trained(too_few, text_task.clients[0])[0].shared == too_few.init_shared()


def test_steps_get_smaller_over_rounds(black_setup, text_task):
    method = make(black_setup, queries=8, clip=1e-3)  # every estimate is cut to the same length
    lengths = [
        (trained(method, text_task.clients[0], round)[0].shared - method.init_shared()).norm() for round in (1, 3)
    ]
    stability = 0.1 * 1 * 3  # a tenth of a step a round, for 3 rounds
    assert lengths[1] / lengths[0] == pytest.approx(((1 + stability) / (3 + stability)) ** 0.602, rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"clients": [1]}, {"dropout": 0.5, "rounds": 3}, {"participation": 0.3}])
@pytest.mark.parametrize("side", ["text", "pixels"])
def test_federations_of_any_size_are_repeatable(
    black_setup, bright_setup, text_task, picture_task, federate, options, side
):
    setup, task = (black_setup, text_task) if side == "text" else (bright_setup, picture_task)
    method = make(setup)
    first = federate(method, task, **options)
    assert first.shared == federate(make(setup), task, **options).shared
    assert (first.shared - method.init_shared()).norm() > 0
    assert all(len(personal) == 0 for personal in first.personal.values())


def test_clients_do_not_depend_on_each_other(black_setup, text_task):
    one = [trained(make(black_setup), data)[0].shared for data in text_task.clients]
    other = [trained(make(black_setup), data)[0].shared for data in reversed(text_task.clients)]
    assert one == other[::-1]
    assert one[0] != one[1]


def test_it_learns_that_pictures_look_too_dark(bright_setup, picture_task, federate):
    method = make(bright_setup, queries=160, lr=1.0)
    state = federate(method, picture_task, rounds=3)
    before, after = (
        F.cross_entropy(
            method.logits(s, NO_PROMPT, ["cold", "hot"], picture_task.base_test), picture_task.base_test.labels
        )
        for s in (method.init_shared(), state.shared)
    )
    assert after < before - 0.05
