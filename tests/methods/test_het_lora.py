"""Tests of HETLORA: padding, weights by norm, and equal ranks as FedIT."""

from __future__ import annotations

from dataclasses import replace

import torch

from promptfed.low_rank import dense, shares
from promptfed.prompt_state import PromptState

from .tiny_language import Rounds, clients, make, setup_of

PATH = "encoder.layer.0.attention.self.value"
A, B = (f"base_model.model.{PATH}.lora_{factor}.weight" for factor in "AB")


def test_equal_ranks_and_norms_are_fedit() -> None:
    setup = setup_of()
    het, fedit = (Rounds(make(name, setup, local_epochs=3), clients(2, 6)) for name in ("het_lora", "fedit"))
    first = fedit.run()[0]
    turned = {n: -t for n, t in first.shared.items()}  # the same products, of other factors
    updates = [replace(first, client=0), replace(first, client=1, shared=PromptState(turned))]
    merged = [rounds.rule.apply(rounds.method.init_shared(), updates, rounds.server)[0] for rounds in (het, fedit)]
    assert all(torch.allclose(merged[0][name], merged[1][name], atol=1e-6) for name in merged[0])


def test_ranks_are_padded_and_weighed_by_norm() -> None:
    rounds = Rounds(make("het_lora", setup_of(), ranks="1,3", r=4, local_epochs=3), clients())
    before = rounds.shared
    assert rounds.sent(0)[A].shape == (1, 16)
    assert rounds.sent(1)[B].shape == (16, 3)
    updates = rounds.run()
    kind = rounds.method.kind
    assert kind.scale(1) == kind.scale(3) == 4 / 3
    one, three = (dense(kind.factors(update.shared, PATH)).norm().item() for update in updates)
    p, q = shares([one, three])
    assert torch.allclose(rounds.shared[A][:1], p * updates[0].shared[A] + q * updates[1].shared[A][:1], atol=1e-6)
    assert torch.allclose(rounds.shared[B][:, 1:], q * updates[1].shared[B][:, 1:], atol=1e-6)  # pulled to zero
    alone, _ = rounds.rule.apply(before, updates[:1], rounds.server)
    assert torch.equal(alone[A][1:], before[A][1:])  # what nobody held is as it was
