"""Tests of FedEx-LoRA: what clients go on from is the mean of their models, and a cap says what it loses."""

from __future__ import annotations

import logging

import pytest

from .tiny_language import Rounds, changes, clients, largest_error, make, mean_change, setup_of

Q = "base_model.model.encoder.layer.0.attention.self.query"


def test_the_next_round_starts_from_the_mean_of_the_models() -> None:
    method = make("fedex_lora", setup_of(), local_epochs=4)
    rounds = Rounds(method, clients(3))
    ranks = []
    for _ in range(3):
        sent = [rounds.shared] * 3
        updates = rounds.run()
        exact = mean_change(rounds, updates, sent)
        assert largest_error(exact, changes(method.kind, rounds.shared)) < 1e-6
        ranks.append(len(rounds.shared[f"residual/{Q}.lora_A.weight"]))
        factors = {name: tensor for name, tensor in rounds.shared.items() if not name.startswith("residual/")}
    assert largest_error(exact, changes(method.kind, factors)) > 1e-4  # what FedIT would go on from
    assert ranks == [4, 8, 12]  # (clients - 1) * r more each time
    assert not any(name.startswith("residual/") for update in updates for name in update.shared)


def test_a_cap_loses_something_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    method = make("fedex_lora", setup_of(), local_epochs=4, residual_rank=1)
    rounds = Rounds(method, clients(3))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            rounds.run()
    assert len(rounds.shared[f"residual/{Q}.lora_A.weight"]) == 1
    assert "is cut from rank" in caplog.text
