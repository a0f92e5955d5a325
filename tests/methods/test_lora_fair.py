"""Tests of LoRA-FAIR: the corrected product is nearer to the mean of products than FedIT's."""

from __future__ import annotations

import torch

from .tiny_language import Rounds, changes, clients, make, mean_change, setup_of


def errors(penalty: float) -> tuple[list[float], Rounds]:
    """Return each matrix's distance from the exact mean after two rounds."""
    method = make("lora_fair", setup_of(), local_epochs=4, penalty=penalty)
    rounds = Rounds(method, clients(3))
    rounds.run()
    sent = [rounds.shared] * 3
    exact = mean_change(rounds, rounds.run(), sent)
    merged = changes(method.kind, rounds.shared)
    return [(merged[path] - exact[path]).norm().item() for path in exact], rounds


def test_the_correction_brings_the_product_nearer() -> None:
    corrected, _ = errors(0.0)
    nearly_none, rounds = errors(1e9)
    assert all(near < far for near, far in zip(corrected, nearly_none, strict=True))
    fedit = Rounds(make("fedit", setup_of(), local_epochs=4), clients(3))
    fedit.run()
    fedit.run()
    assert all(torch.allclose(fedit.shared[name], tensor, atol=1e-6) for name, tensor in rounds.shared.items())
