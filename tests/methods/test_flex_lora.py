"""Tests of FlexLoRA, FLoRIST and FLoRA: different ranks, merged exactly up to the cut that was asked for."""

from __future__ import annotations

import pytest
import torch

from promptfed.peft_format.from_kind import adapter_of
from promptfed.types import NO_PROMPT

from .tiny_language import Rounds, changes, clients, largest_error, make, mean_change, setup_of

Q = "encoder.layer.0.attention.self.query"


def one_round(cut: str, rounds_before: int = 1, **options: object) -> tuple[Rounds, dict[str, torch.Tensor]]:
    """Return a federation after some rounds, and the exact mean of its clients' models in the last."""
    rounds = Rounds(make("flex_lora", setup_of(), local_epochs=4, cut=cut, **options), clients(3))
    for _ in range(rounds_before):
        rounds.run()
    sent = [rounds.sent(client) for client in range(3)]
    updates = rounds.run()
    kept = sent if cut == "stack" else [NO_PROMPT] * 3
    return rounds, mean_change(rounds, updates, kept)


def test_with_enough_rank_nothing_is_lost() -> None:
    rounds, exact = one_round("rank", ranks="2,4,16")
    assert largest_error(exact, changes(rounds.method.kind, rounds.shared)) < 1e-5
    assert len(rounds.shared[f"base_model.model.{Q}.lora_A.weight"]) == 16


def test_a_client_is_sent_the_best_of_its_rank() -> None:
    rounds, exact = one_round("rank", ranks="1,3,16")
    for client, rank in ((0, 1), (1, 3)):
        sent = rounds.sent(client)
        assert sent[f"base_model.model.{Q}.lora_A.weight"].shape == (rank, 16)
        lost = (changes(rounds.method.kind, sent)[Q] - exact[Q]).square().sum()
        dropped = torch.linalg.svdvals(exact[Q])[rank:].square().sum()
        assert lost.item() == pytest.approx(dropped.item(), rel=1e-3)  # Eckart and Young
    assert len(rounds.sent(None)[f"base_model.model.{Q}.lora_A.weight"]) == 16


def test_the_energy_cut_keeps_what_is_asked_and_clients_still_train_their_rank() -> None:
    rounds, exact = one_round("energy", energy=0.9, r=6)
    merged = changes(rounds.method.kind, rounds.shared)
    for path, wanted in exact.items():
        rank = len(rounds.shared[f"base_model.model.{path}.lora_A.weight"])
        squares = torch.linalg.svdvals(wanted).square()
        assert squares[:rank].sum() >= 0.9 * squares.sum()
        assert squares[: rank - 1].sum() < 0.9 * squares.sum()
        assert (merged[path] - wanted).square().sum() <= 0.1001 * squares.sum()
    assert rounds.run()[0].shared[f"base_model.model.{Q}.lora_A.weight"].shape == (6, 16)


def test_stacks_add_up_exactly_and_are_one_adapter_for_peft() -> None:
    rounds, exact = one_round("stack", rounds_before=2, ranks="1,2,3")
    assert largest_error(exact, changes(rounds.method.kind, rounds.shared)) < 1e-5
    adapter = adapter_of(rounds.method.kind, rounds.shared, rounds.method.model)
    for path, wanted in exact.items():
        a, b = (adapter.tensors[f"base_model.model.{path}.lora_{factor}.weight"] for factor in "AB")
        alpha = adapter.config.alpha_pattern.get(path, adapter.config.lora_alpha)
        assert torch.allclose((alpha / len(a)) * b.double() @ a.double(), wanted, atol=1e-5)
