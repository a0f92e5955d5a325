"""Tests of Fed-SB and RAVAN: exact means of small matrices, and the frame from the clients' mean gradient."""

from __future__ import annotations

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.inserts.square_low_rank import FROZEN
from promptfed.language_models.insert import Factors, Insert
from promptfed.prompt_state import PromptState

from .tiny_language import CLASSES, Rounds, changes, clients, largest_error, make, mean_change, setup_of

Q = "encoder.layer.0.attention.self.query"
R = f"base_model.model.{Q}.lora_R.weight"


@pytest.mark.parametrize("heads", [1, 3])
def test_the_mean_of_products_is_the_product_with_the_mean(heads: int) -> None:
    setup = setup_of()
    method = make("fedsb", setup, factors="random", heads=heads, local_epochs=4)
    rounds = Rounds(method, clients(3))
    assert torch.equal(rounds.scores(), setup.model.template_scores("", rounds.data[0].test, CLASSES))
    for _ in range(2):
        sent = [rounds.shared] * 3
        updates = rounds.run()
        merged = changes(method.kind, method.values(rounds.shared, rounds.shared))
        assert largest_error(mean_change(rounds, updates, sent), merged) < 1e-6
    assert sum(tensor.numel() for tensor in updates[0].shared.values()) == 4 * heads * 2 * 2
    assert max(change.abs().max() for change in merged.values()) > 1e-3


def test_frozen_factors_are_orthonormal_over_all_heads() -> None:
    values = make("fedsb", setup_of(), factors="random", heads=3).kind.random_factors
    a, b = values[f"{FROZEN}base_model.model.{Q}.lora_A.weight"], values[f"{FROZEN}base_model.model.{Q}.lora_B.weight"]
    assert torch.allclose(a @ a.T, torch.eye(6), atol=1e-6)
    assert torch.allclose(b.T @ b, torch.eye(6), atol=1e-6)


def test_the_frame_is_that_of_the_mean_gradient() -> None:
    """With as many vectors as there are dimensions, ``B^T G A^T`` is G's singular values and nothing else."""
    method = make("fedsb", setup_of(), r=16)
    rounds = Rounds(method, clients(3))
    gradient = torch.zeros(16, 16)
    total = sum(len(data.train) for data in rounds.data)
    for data in rounds.data:
        weight = torch.zeros(16, 16, requires_grad=True)
        insert = Insert(low_rank={Q: (Factors(torch.eye(16), weight),)})
        loss, _ = method.head.loss({}, insert, data.train.items, data.train.labels)
        gradient += len(data.train) / total * torch.autograd.grad(loss, weight)[0]
    updates = rounds.run() + rounds.run()
    assert all(name.startswith("sketch/") for update in updates for name in update.shared)
    a, b = (rounds.shared[f"{FROZEN}base_model.model.{Q}.lora_{factor}.weight"] for factor in "AB")
    projected = b.T @ gradient @ a.T
    assert torch.allclose(projected.diagonal(), torch.linalg.svdvals(gradient), atol=1e-5)
    assert torch.allclose(projected, torch.diag(projected.diagonal()), atol=1e-5)
    assert not rounds.shared[R].any()
    rounds.run()
    assert rounds.shared[R].any()


def test_the_setup_needs_rounds_and_heads_need_room() -> None:
    with pytest.raises(ConfigError, match=r"takes 2 rounds.*--rounds 3.*factors=random"):
        make("fedsb", setup_of(rounds=2))
    with pytest.raises(ConfigError, match=r"16 dimensions.*method.r=4"):
        make("fedsb", setup_of(), factors="random", r=8, heads=4)


def test_heads_send_the_product_with_their_factor() -> None:
    method = make("fedsb", setup_of(), factors="random", heads=2)
    factor = f"base_model.model.{Q}.lora_s.weight"
    rounds = Rounds(method, clients())
    problem = method.problem(type("B", (), {"shared": rounds.shared, "round": 1})(), rounds.data[0], PromptState())
    assert torch.equal(problem.start[factor], torch.ones(2))
    trained = PromptState({**problem.start, R: torch.ones(2, 2, 2), factor: torch.tensor([2.0, -1.0])})
    sent, _ = method.split_update(trained, None, rounds.data[0], PromptState())
    assert sent[R].flatten(1).tolist() == [[2.0] * 4, [-1.0] * 4]
    assert factor not in sent
