"""Tests of SLoRA: a sparse change that is averaged exactly, and the factors that it becomes."""

from __future__ import annotations

import torch

from .tiny_language import Rounds, changes, clients, largest_error, make, mean_change, setup_of


def test_sparse_rounds_train_columns_and_become_factors() -> None:
    method = make("slora", setup_of(), density=0.2, sparse_rounds=2, local_epochs=3)  # 3 of 16 columns, r 2
    rounds = Rounds(method, clients(3))
    rounds.run()
    sparse = changes(method.kind, method.values(rounds.shared, rounds.shared))
    assert all((change != 0).any(0).sum() == 3 for change in sparse.values())
    sent = [rounds.shared] * 3
    exact = mean_change(rounds, rounds.run(), sent)
    merged = changes(method.kind, rounds.shared)
    for path, wanted in exact.items():
        dropped = torch.linalg.svdvals(wanted)[2:].norm()
        assert torch.isclose((merged[path] - wanted).norm(), dropped, rtol=1e-3)
    assert {name.rsplit(".", 2)[1] for name in rounds.shared} == {"lora_A", "lora_B"}
    rounds.run()
    assert largest_error(changes(method.kind, rounds.shared), merged) > 1e-3


def test_few_columns_are_filled_up_with_components_that_add_nothing() -> None:
    method = make("slora", setup_of(), density=0.1, sparse_rounds=1, r=5)
    rounds = Rounds(method, clients())
    sent = [rounds.shared] * 2
    exact = mean_change(rounds, rounds.run(), sent)
    assert largest_error(exact, changes(method.kind, rounds.shared)) < 1e-6
    assert all(len(rows) == 5 and rows.any(1).all() for name, rows in rounds.shared.items() if "lora_A" in name)


def test_a_quarter_of_the_rounds_is_sparse() -> None:
    assert [make("slora", setup_of(rounds)).sparse_rounds for rounds in (1, 7, 8, 20)] == [1, 1, 2, 5]
