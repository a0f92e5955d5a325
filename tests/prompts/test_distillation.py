from __future__ import annotations

import math

import pytest
import torch

from promptfed.prompts.distillation import distillation


def test_by_hand_at_two_classes():
    """At t = 1: KL(1/2, 1/2 || 3/4, 1/4) = log(2 / sqrt 3); at t = 2 the ratio 3 : 1 becomes sqrt 3 : 1."""
    scores, teacher = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert distillation(scores, teacher, 1.0).item() == pytest.approx(math.log(2 / math.sqrt(3)))
    share = math.sqrt(3) / (1 + math.sqrt(3))
    expected = -0.5 * math.log(share) - 0.5 * math.log(1 - share) - math.log(2)
    assert distillation(scores, teacher, 2.0).item() == pytest.approx(4 * expected, rel=1e-5)


def test_between_equals_it_is_exactly_zero_and_so_is_its_gradient():
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = distillation(scores, scores.detach().clone(), 3.0)
    value.backward()
    assert value.item() == 0
    torch.testing.assert_close(scores.grad, torch.zeros(5, 4), atol=1e-7, rtol=0)


def test_the_gradient_is_that_of_shares_and_none_reaches_the_teacher():
    """d/dz of t^2 KL is t (softmax(z / t) - softmax(teacher / t)) / n."""
    draw = torch.Generator().manual_seed(1)
    scores, teacher = (torch.randn(3, 4, generator=draw, requires_grad=True) for _ in range(2))
    distillation(scores, teacher, 3.0).backward()
    expected = (torch.softmax(scores / 3, -1) - torch.softmax(teacher / 3, -1)) * 3 / 3
    torch.testing.assert_close(scores.grad, expected.detach())
    assert teacher.grad is None
