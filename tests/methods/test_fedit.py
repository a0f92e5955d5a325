"""Tests of FedIT: LoRA's start, one step as if all data were in one place, and what the means of factors miss."""

from __future__ import annotations

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.low_rank import covariance_residual, dense
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split

from .tiny_language import CLASSES, Rounds, changes, clients, largest_error, make, mean_change, setup_of


def test_the_start_is_the_frozen_model_and_rounds_leave_it_frozen() -> None:
    setup = setup_of()
    rounds = Rounds(make("fedit", setup), clients())
    split = rounds.data[0].test
    assert torch.equal(rounds.scores(), setup.model.template_scores("", split, CLASSES))
    hooks = [len(module._forward_hooks) for module in setup.language_model.model.modules()]
    rounds.run()
    assert hooks == [len(module._forward_hooks) for module in setup.language_model.model.modules()]
    setup.verify_frozen()
    assert not torch.equal(rounds.scores(), setup.model.template_scores("", split, CLASSES))


def test_one_full_batch_step_is_the_step_on_all_data() -> None:
    method = make("fedit", setup_of(), optimizer="sgd", momentum=0, batch_size="all")
    data = clients(3)
    rounds = Rounds(method, data)
    start = rounds.shared
    rounds.run()
    items = tuple(item for client in data for item in client.train.items)
    pooled = Split(items, torch.cat([client.train.labels for client in data]))
    whole = ClientData(0, "all", (0, 1), pooled, pooled, pooled)
    update, _ = method.train(Broadcast(1, start), whole, NO_PROMPT)
    for name, tensor in update.shared.items():
        assert torch.allclose(rounds.shared[name], tensor, atol=1e-5)
    assert any((rounds.shared[name] != start[name]).any() for name in start)


def test_the_product_of_means_misses_the_covariance_of_the_factors() -> None:
    method = make("fedit", setup_of(), local_epochs=4)
    rounds = Rounds(method, clients())
    rounds.run()
    sent = [rounds.shared] * 2
    updates = rounds.run()
    wanted, merged = mean_change(rounds, updates, sent), changes(method.kind, rounds.shared)
    weights = [update.samples for update in updates]
    assert largest_error(wanted, merged) > 1e-5
    for path in wanted:
        residual = covariance_residual([method.kind.factors(u.shared, path) for u in updates], weights)
        assert torch.allclose(wanted[path] - merged[path], dense(residual), atol=1e-6)


def test_mixed_ranks_are_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"'ranks' is 4,8, and FedIT merges.*flex_lora or het_lora"):
        make("fedit", setup_of(), ranks="4,8")
    assert make("fedit", setup_of(), ranks="4,4").kind.r == 4
