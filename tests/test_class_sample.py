"""Sampled softmax: what is drawn, and what the correction makes right."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.class_sample import EVERY_CLASS, draw_classes
from promptfed.seeding import torch_stream


def draws(others: int, present=(1,), classes: int = 4):
    """Each sample that can be drawn, once: many streams find all of the few that there are."""
    samples = [draw_classes(torch.tensor(present), classes, others, torch_stream(s, "draw")) for s in range(60)]
    return list({tuple(sample.columns.tolist()): sample for sample in samples}.values())


def test_the_corrected_sum_of_exponentials_is_that_of_all_classes_on_average():
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.5]])
    samples = draws(others=2)
    assert {tuple(sample.columns.tolist()) for sample in samples} == {(0, 1, 2), (0, 1, 3), (1, 2, 3)}
    sums = [(sample.of(logits, 1) + sample.correction).exp().sum() for sample in samples]
    assert torch.stack(sums).mean() == pytest.approx(logits.exp().sum().item(), rel=1e-6)


def test_without_the_correction_it_would_be_too_small():
    logits = torch.tensor([0.3, -1.0, 2.0, 0.5])
    assert all(sample.of(logits).exp().sum() < logits.exp().sum() for sample in draws(others=2))


def test_the_loss_by_hand():
    """One class of three others is drawn, so its exponential counts three times."""
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.5]])
    for sample in draws(others=1):
        (other,) = set(sample.columns.tolist()) - {1}
        total = logits[0, 1].exp() + 3 * logits[0, other].exp()
        loss = sample.cross_entropy(sample.of(logits, 1), torch.tensor([1]))
        assert loss.item() == pytest.approx((total.log() - logits[0, 1]).item(), rel=1e-6)


def test_a_mean_over_classes_is_right_on_average():
    values = torch.tensor([3.0, 10.0, -2.0, 0.5])
    means = [sample.mean(sample.of(values)) for sample in draws(others=2)]
    assert torch.stack(means).mean() == pytest.approx(values.mean().item(), rel=1e-6)


def test_classes_of_the_examples_are_always_in_it():
    sample = draw_classes(torch.tensor([7, 2, 7, 9]), 12, 3, torch_stream(0, "draw"))
    assert len(sample.columns) == 3 + 3
    assert sample.columns.tolist() == sorted(sample.columns.tolist())
    assert sample.columns[sample.positions(torch.tensor([7, 2, 7, 9]))].tolist() == [7, 2, 7, 9]
    assert (sample.correction[sample.positions(torch.tensor([2, 7, 9]))] == 0).all(), "their probability is one"


@pytest.mark.parametrize("others", [None, 3, 99])
def test_where_all_classes_are_taken_nothing_is_drawn_and_nothing_changes(others):
    stream = torch_stream(0, "draw")
    before = stream.get_state()
    sample = draw_classes(torch.tensor([1]), 4, others, stream)
    assert sample is EVERY_CLASS
    assert torch.equal(stream.get_state(), before)
    logits, labels = torch.randn(5, 4, generator=stream), torch.tensor([1, 0, 3, 2, 1])
    assert torch.equal(sample.cross_entropy(logits, labels), F.cross_entropy(logits, labels))
