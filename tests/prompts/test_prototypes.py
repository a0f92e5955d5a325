"""Prototypes and their contrast by hand, and at the ends."""

from __future__ import annotations

import math

import pytest
import torch

from promptfed.prompts.prototypes import class_prototypes, contrast, contrast_to_clients, global_prototypes


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_prototypes_are_means_of_unit_features_and_rare_classes_have_none():
    features = torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 5.0], [1.0, 0.0]])
    prototypes, counts = class_prototypes(features, torch.tensor([0, 0, 2, 0]), 4, minimum=3)
    torch.testing.assert_close(prototypes, torch.tensor([[2 / 3, 1 / 3], [0, 0], [0, 0], [0, 0]]))
    assert counts.tolist() == [3, 0, 0, 0]


def test_the_global_prototype_is_the_mean_over_all_examples_of_all_clients():
    features, labels = draw(12, 5), torch.tensor([0, 1, 2, 0, 0, 1, 2, 2, 1, 0, 0, 1])
    parts = [class_prototypes(features[rows], labels[rows], 3) for rows in (slice(0, 3), slice(3, 12))]
    merged, totals = global_prototypes(*(torch.stack(both) for both in zip(*parts, strict=True)))
    together, counts = class_prototypes(features, labels, 3)
    torch.testing.assert_close(merged, together)
    assert torch.equal(totals, counts)


def test_contrast_by_hand():
    """Cosines 1 and 0 at t = 1: -log(e / (e + 1)); at 45 degrees to both: log 2."""
    prototypes, counts = torch.tensor([[2.0, 0.0], [0.0, 0.5]]), torch.tensor([4.0, 1.0])
    features = torch.tensor([[3.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    losses = contrast(features, torch.tensor([0, 0, 1]), prototypes, counts, 1.0)
    expected = [math.log(1 + math.exp(-1)), math.log(1 + math.e), math.log(2)]
    assert losses.tolist() == pytest.approx(expected)


def test_one_client_and_an_infinite_temperature_give_log_classes_for_each_term():
    features, labels, prototypes = draw(6, 4), torch.tensor([0, 1, 2, 3, 4, 0]), draw(5, 4, seed=1)
    counts = torch.ones(5)
    for losses in (
        contrast(features, labels, prototypes, counts, math.inf),
        contrast_to_clients(features, labels, prototypes[None], counts[None], math.inf),
    ):
        torch.testing.assert_close(losses, torch.full((6,), math.log(5)))


def test_the_term_of_clients_is_the_mean_of_the_contrasts_to_those_who_have_the_class():
    features, labels, prototypes = draw(4, 3), torch.tensor([0, 1, 2, 0]), draw(3, 3, 3, seed=2)
    counts = torch.tensor([[5.0, 5.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    prototypes = torch.where(counts[:, :, None] > 0, prototypes, 0).requires_grad_()
    losses = contrast_to_clients(features, labels, prototypes, counts, 0.5)
    first, second = (contrast(features, labels, prototypes[k], counts[k], 0.5) for k in (0, 1))
    torch.testing.assert_close(losses, torch.where(labels == 0, (first + second) / 2, first))
    assert losses[2] == 0, "nobody has its class"
    assert second[0] == 0, "a client with one class has nothing to tell it from"
    losses.sum().backward()
    assert torch.isfinite(prototypes.grad).all()


def test_a_class_without_a_prototype_is_no_alternative():
    features, labels, prototypes = draw(3, 4), torch.tensor([0, 1, 1]), draw(3, 4, seed=3)
    without = contrast(features, labels, prototypes[:2], torch.ones(2), 0.1)
    torch.testing.assert_close(contrast(features, labels, prototypes, torch.tensor([1.0, 1, 0]), 0.1), without)
