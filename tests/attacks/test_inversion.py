from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from promptfed.attacks.inversion import _jacobian, _rebuilt, feature_inversion, label_inference, spearman, t_interval
from promptfed.errors import ConfigError
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.types import NO_PROMPT


@pytest.fixture
def method(setup):
    return PromptFL(PromptFLConfig(n_ctx=2), setup)


def test_spearman_by_hand():
    one = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert spearman(one, one**3) == pytest.approx(1)
    assert spearman(one, -one) == pytest.approx(-1)
    assert spearman(one, torch.tensor([1.0, 2.0, 4.0, 3.0])) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert spearman(one, torch.tensor([5.0, 5.0, 7.0, 7.0])) == pytest.approx(0.8**0.5)  # ties share their rank
    assert spearman(one, torch.ones(4)) == 0.0


def test_the_interval_of_a_mean():
    low, high = t_interval([0.2, 0.4])
    assert (low + high) / 2 == pytest.approx(0.3, abs=0.36)
    assert t_interval([0.5]) == (-1.0, 1.0)
    assert t_interval([0.1, 0.2, 0.3]) == pytest.approx((0.2 - 4.3027 * 0.1 / 3**0.5, 0.2 + 4.3027 * 0.1 / 3**0.5))


def test_labels_are_ranked_for_clients_with_something_to_rank(method, toy_task):
    sent, personal = dict.fromkeys(range(3), method.init_shared()), dict.fromkeys(range(3), NO_PROMPT)
    found = label_inference(method, sent, personal, toy_task)
    assert set(found["clients"]) == {0, 1, 2}
    assert all(-1 <= value <= 1 for value in found["clients"].values())
    assert found["found_by_chance"] == pytest.approx((1 / 4 + 1 / 4 + 2 / 4) / 3)


def test_the_jacobian_is_the_derivative_by_rows(method, toy_task):
    ctx = method.init_shared()["ctx"].requires_grad_()
    features = method.setup.backbone.encode_prompted_texts([method.tuner.prompted(ctx, toy_task.base_classes)])[0]
    made = _jacobian(features, ctx)
    assert made.shape == (4 * 3, 2 * 4)
    row = torch.autograd.grad(features[1, 2], ctx)[0].flatten()
    torch.testing.assert_close(made[5], row)


def test_features_come_back_from_the_gradient_of_one_example():
    """With as many numbers as there are in a gradient by text features, x and y are the only solution."""
    stream = torch.Generator().manual_seed(0)
    units = F.normalize(torch.randn(4, 6, generator=stream), dim=-1)
    jacobian, label = torch.randn(24, 24, generator=stream), 2
    image = F.normalize(torch.randn(6, generator=stream), dim=0)
    errors = (5 * units @ image).softmax(0) - F.one_hot(torch.tensor(label), 4)
    gradient = (errors[:, None] * image).flatten() @ jacobian
    guess, guessed = _rebuilt(units, jacobian, gradient, 5.0, stream)
    assert guessed == label
    assert (guess @ image).item() > 0.99


def test_as_many_clients_are_looked_at_as_it_says(method, toy_task):
    found = feature_inversion(method, dict.fromkeys(range(3), method.init_shared()), toy_task, most=2)
    assert found["examples"] == 2
    assert -1 <= found["cosine"] <= 1


def test_a_method_without_text_features_is_refused(method, toy_task):
    with pytest.raises(ConfigError, match="one shared context"):
        feature_inversion(object.__new__(type("Other", (), {"name": "Other"})), {}, toy_task)
