"""Tests of FedSA-LoRA: A is merged, B stays, and a newcomer trains a B of its own."""

from __future__ import annotations

import torch

from promptfed.types import NO_PROMPT

from .tiny_language import CLASSES, Rounds, clients, make, setup_of


def test_b_and_head_stay_at_home() -> None:
    setup = setup_of()
    rounds = Rounds(make("fedsa_lora", setup, head="linear"), clients())
    for _ in range(2):
        updates = rounds.run()
    assert all(name.endswith("lora_A.weight") for update in updates for name in update.shared)
    assert not any(name.endswith("lora_A.weight") for name in rounds.personal[0])
    assert rounds.personal[0] != rounds.personal[1]
    assert not torch.equal(rounds.scores(0), rounds.scores(1))


def test_a_newcomer_has_the_frozen_model_until_it_trains_b() -> None:
    setup, data = setup_of(rounds=3), clients(3)
    rounds = Rounds(make("fedsa_lora", setup, local_epochs=3), data[:2])
    rounds.run()
    rounds.run()
    split = data[0].test
    assert torch.equal(rounds.scores(), setup.model.template_scores("", split, CLASSES))
    adapted = rounds.method.fit_newcomer(rounds.shared, data[2])
    assert all(torch.equal(adapted[name], tensor) for name, tensor in rounds.shared.items())

    def loss(shared: object) -> float:
        scores = rounds.method.logits(shared, NO_PROMPT, CLASSES, data[2].train)
        return torch.nn.functional.cross_entropy(scores, data[2].train.labels).item()

    assert loss(adapted) < loss(rounds.shared)


def test_a_newcomer_s_way_from_the_frozen_model() -> None:
    rounds = Rounds(make("fedsa_lora", setup_of(rounds=1), head="linear"), clients())
    adapted = rounds.method.fit_newcomer(rounds.shared, rounds.data[0])
    middle = rounds.method.tuned_blend(rounds.shared, adapted, 0.5)
    start = rounds.method.start()
    for name in start:
        assert torch.allclose(middle[name], (start[name] + adapted[name]) / 2, atol=1e-6)
