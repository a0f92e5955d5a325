from __future__ import annotations

import pytest
import torch

from promptfed.attacks.base import build_attack
from promptfed.attacks.round import Round
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Job, Reply, Update

SENT = PromptState({"ctx": torch.tensor([10.0, 20.0])})


def made(name, own, **options):
    """What client 1 sends whose honest change is ``own``, as a change."""
    job = Job(1, Broadcast(1, SENT))
    reply = Reply(1, 1, Update(1, SENT + PromptState({"ctx": torch.tensor(own)}), 3, 0.5, 0.5), NO_PROMPT, 0.1)
    round = Round.of([job], [reply], frozenset({1}), seed=0)
    sent = build_attack(name, options).reply(reply, job, round)
    assert (sent.update.samples, sent.update.loss) == (3, 0.5)
    return (sent.update.shared - SENT)["ctx"]


def test_a_change_is_reversed_and_stretched():
    assert made("signflip", [3.0, 4.0], strength=2).tolist() == [-6.0, -8.0]
    assert made("scale", [3.0, 4.0], strength=2).tolist() == [6.0, 8.0]


def test_noise_is_as_long_as_it_says_whatever_the_change():
    first, second = made("gaussian", [3.0, 4.0], strength=2), made("gaussian", [3.0, -4.0], strength=2)
    assert first.norm().item() == pytest.approx(10, rel=1e-5)
    assert torch.equal(first, second)


def test_a_constant_prompt_has_one_number():
    assert (made("constant", [3.0, 4.0], value=7) + SENT["ctx"]).tolist() == [7.0, 7.0]
    assert (made("zero", [3.0, 4.0]) + SENT["ctx"]).tolist() == [0.0, 0.0]
