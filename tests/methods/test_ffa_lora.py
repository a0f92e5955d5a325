"""Tests of FFA-LoRA: A never travels, and the mean of B is exact."""

from __future__ import annotations

from .tiny_language import Rounds, changes, clients, largest_error, make, mean_change, setup_of


def test_only_b_travels_and_the_mean_is_exact() -> None:
    method = make("ffa_lora", setup_of(), local_epochs=4)
    rounds = Rounds(method, clients(3))
    assert all(name.endswith("lora_B.weight") for name in rounds.shared)
    for _ in range(2):
        sent = [rounds.shared] * 3
        updates = rounds.run()
        merged = changes(method.kind, method.values(rounds.shared, rounds.shared))
        assert largest_error(mean_change(rounds, updates, sent), merged) < 1e-6
    assert max(change.abs().max() for change in merged.values()) > 0.01


def test_a_trained_head_travels_too() -> None:
    method = make("ffa_lora", setup_of(), head="linear")
    rounds = Rounds(method, clients())
    start = rounds.shared
    (update, _) = rounds.run()
    assert {"head.weight", "head.bias"} < set(update.shared)
    assert (rounds.shared["head.weight"] != start["head.weight"]).any()
