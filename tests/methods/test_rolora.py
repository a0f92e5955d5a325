"""Tests of RoLoRA: the factors take turns, and every round's mean is exact."""

from __future__ import annotations

from .tiny_language import Rounds, changes, clients, largest_error, make, mean_change, setup_of


def test_the_factors_take_turns_and_each_mean_is_exact() -> None:
    method = make("rolora", setup_of(), local_epochs=4)
    rounds = Rounds(method, clients(3))
    for factor in ("lora_B", "lora_A", "lora_B"):
        before = rounds.shared
        updates = rounds.run()
        assert all(f"{factor}.weight" in name for update in updates for name in update.shared)
        resting = [name for name in before if "lora_" in name and factor not in name]
        assert all((rounds.shared[name] == before[name]).all() for name in resting)
        merged = changes(method.kind, rounds.shared)
        assert largest_error(mean_change(rounds, updates, [before] * 3), merged) < 1e-6
        assert largest_error(changes(method.kind, before), merged) > 1e-4
