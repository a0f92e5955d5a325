"""Tests of FedLoRA: shared and personal factors add up, and what is personal stays."""

from __future__ import annotations

import pytest
import torch

from promptfed.types import NO_PROMPT, Broadcast

from .tiny_language import CLASSES, Rounds, clients, make, setup_of


@pytest.mark.parametrize("order", ["alternate", "joint"])
def test_both_parts_are_trained_and_one_is_sent(order: str) -> None:
    rounds = Rounds(make("fedlora_pfl", setup_of(), order=order), clients())
    updates = rounds.run()
    assert not any("personal/" in name for update in updates for name in update.shared)
    assert all(name.startswith("personal/") for name in rounds.personal[0])
    assert any(tensor.any() for name, tensor in rounds.personal[0].items() if "lora_B" in name)
    assert rounds.personal[0] != rounds.personal[1]
    assert not torch.equal(rounds.scores(0), rounds.scores())


def test_the_shared_part_is_trained_first_as_if_there_were_no_other() -> None:
    """A personal part that has not trained is zero, so in round 1 the update is FedIT's."""
    setup, data = setup_of(), clients()
    rounds = Rounds(make("fedlora_pfl", setup), data)
    update = rounds.run()[0]
    fedit = make("fedit", setup)
    alone, _ = fedit.train(Broadcast(1, fedit.init_shared()), data[0], NO_PROMPT)
    assert all(torch.allclose(update.shared[name], tensor, atol=1e-6) for name, tensor in alone.shared.items())


def test_the_path_from_the_shared_to_the_personal_model() -> None:
    rounds = Rounds(make("fedlora_pfl", setup_of()), clients())
    rounds.run()
    method, personal, split = rounds.method, rounds.personal[0], rounds.data[0].test
    none, whole = (method.blend(rounds.shared, personal, alpha) for alpha in (0.0, 1.0))
    assert torch.allclose(method.logits(rounds.shared, none, CLASSES, split), rounds.scores(), atol=1e-6)
    assert whole == personal


def test_personalising_trains_the_personal_part_alone() -> None:
    rounds = Rounds(make("fedlora_pfl", setup_of()), clients())
    problem = rounds.method.problem(Broadcast(1, rounds.shared), rounds.data[0], NO_PROMPT)
    assert all(name.startswith("personal/") for name in problem.start)
    assert rounds.method.split_update(problem.start, None, rounds.data[0], NO_PROMPT) == (NO_PROMPT, problem.start)
