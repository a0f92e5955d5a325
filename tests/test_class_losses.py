"""Losses of images with several labels, against hand-computed values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn import functional as F

from promptfed.class_losses import Focus, asymmetric_loss, class_loss, shown_classes, sigmoid_bias, sigmoid_loss
from promptfed.examples.base import ImageItem
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.types import NO_PROMPT, Broadcast, Split

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
TARGETS = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def with_grades(split: Split, grades: list[tuple[float, ...]]) -> Split:
    """Return ``split`` whose examples fit several classes."""

    @dataclass(frozen=True)
    class Graded(ImageItem):
        image: ImageItem
        fits: tuple[float, ...]

        @property
        def name(self) -> str:
            return self.image.name

        @property
        def grades(self) -> tuple[float, ...]:
            return self.fits

        def content_id(self) -> str:
            return self.image.content_id()

        def load(self):
            return self.image.load()

    items = tuple(Graded(item, fits) for item, fits in zip(split.items, grades, strict=True))
    return Split(items, split.labels)


def test_the_asymmetric_loss_by_hand():
    """Terms of Ridnik et al. with exponents 1 and 2 and a margin of 0.1."""
    p, total = LOGITS.double().sigmoid(), 0.0
    for row in range(2):
        for column in range(3):
            q = max(float(p[row, column]) - 0.1, 0.0)
            if TARGETS[row, column]:
                total -= float((1 - p[row, column]) * p[row, column].log())
            else:
                total -= q**2 * float(torch.tensor(1 - q, dtype=torch.float64).log())
    loss = asymmetric_loss(LOGITS, TARGETS, Focus(1.0, 2.0, 0.1))
    assert loss.item() == pytest.approx(total / 2, rel=1e-6)


def test_without_focus_it_is_the_sigmoid_loss():
    plain = asymmetric_loss(LOGITS, TARGETS, Focus(0.0, 0.0, 0.0))
    assert plain.item() == pytest.approx(sigmoid_loss(LOGITS, TARGETS).item(), rel=1e-6)


def test_an_absent_class_below_the_margin_costs_nothing_and_extreme_logits_are_finite():
    logits = torch.tensor([[-4.0, 90.0, -90.0]], requires_grad=True)
    loss = asymmetric_loss(logits, torch.tensor([[0.0, 1.0, 0.0]]), Focus())
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.allclose(logits.grad, torch.zeros(1, 3))
    for focus in (Focus(), Focus(0.5, 0.5, 0.0), Focus(0.5, 0.5, 1e-9)):
        logits = torch.tensor([[90.0, -90.0, 90.0, -90.0]], requires_grad=True)
        loss = asymmetric_loss(logits, torch.tensor([[0.0, 1.0, 1.0, 0.0]]), focus)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()


def test_all_labels_of_an_image_are_targets(setup, toy_task):
    data = toy_task.clients[2]
    classes = len(setup.classes)
    fits = [tuple(float(k in (label, 0)) for k in range(classes)) for label in data.train.labels.tolist()]
    several = replace(data, train=with_grades(data.train, fits), classes=(0, *data.classes))
    config = PromptFLConfig(loss="sigmoid")
    assert torch.equal(shown_classes(config, several), torch.tensor(fits))
    own = shown_classes(PromptFLConfig(loss="sigmoid", label_space="own"), several)
    assert torch.equal(own, torch.tensor(fits)[:, list(several.classes)])
    rows, logits = torch.tensor([1, 0]), torch.randn(2, classes, generator=torch.Generator().manual_seed(0))
    loss, _ = class_loss(config, setup, several)(data.train.labels, logits, rows)
    expected = sigmoid_loss(logits + sigmoid_bias(setup, several), torch.tensor(fits)[rows])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("loss", ["sigmoid", "asymmetric"])
def test_a_client_with_one_class_has_a_gradient(loss, setup, toy_task):
    data = toy_task.clients[0]
    assert data.classes == (0,)
    fits = [tuple(F.one_hot(torch.tensor(0), len(setup.classes)).double().tolist())] * len(data.train)
    data = replace(data, train=with_grades(data.train, fits))
    method = PromptFL(PromptFLConfig(loss=loss, label_space="own"), setup)
    start = method.init_shared()
    update, _ = method.train(Broadcast(1, start), data, NO_PROMPT)
    assert (update.shared - start).norm() > 0.001
