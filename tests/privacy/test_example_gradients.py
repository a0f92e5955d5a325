"""Gradients of single examples against autograd, one by one, on real text towers; the bound of their clipped sum."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from promptfed.backbones.base import PromptedText
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureCache, FeatureStore
from promptfed.backbones.tiny import load_tiny
from promptfed.build_method import build_method
from promptfed.cosines import cosine_logits
from promptfed.local_training import LocalObjective
from promptfed.privacy import example_gradients
from promptfed.privacy.example_gradients import ExampleGradients, clipped_sum
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast


@pytest.fixture(scope="module")
def tiny_features(tmp_path_factory) -> FeatureStore:
    return FeatureStore(load_tiny(), FeatureCache(tmp_path_factory.mktemp("tiny"), limit_bytes=0))


@pytest.fixture
def tiny_setup(setup, tiny_features):
    """``setup`` with the bundled CLIP."""
    return replace(setup, model=DualEncoder(tiny_features))


def objective_of(setup, data, name="promptfl", **options) -> LocalObjective:
    method = build_method(name, {"n_ctx": 3, **options}, setup)
    return method.problem(Broadcast(1, method.init_shared()), data, method.init_personal(data.client) or NO_PROMPT)


def one_by_one(objective, parameters, setup, rows):
    """Autograd of the loss of each example, with a forward pass of its own."""
    trained = {name: tensor for name, tensor in parameters.items() if tensor.requires_grad}
    each = []
    for row in rows:
        features = setup.backbone.encode_prompted_texts(list(objective.texts(parameters)))
        loss, _ = objective.loss(parameters, features, row[None])
        each.append(torch.autograd.grad(loss, list(trained.values())))
    return {name: torch.stack(some) for name, some in zip(trained, zip(*each, strict=True), strict=True)}


def joined(parts):
    parts = list(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize(("name", "options"), [("promptfl", {}), ("promptfl", {"class_specific": True}), ("dpfpl", {})])
@pytest.mark.parametrize("chunk", [2, 8])
def test_they_are_those_of_autograd(tiny_setup, toy_task, monkeypatch, name, options, chunk):
    monkeypatch.setattr(example_gradients, "CHUNK", chunk)
    objective = objective_of(tiny_setup, toy_task.clients[2], name, **options)
    parameters = objective.parameters(tiny_setup.backbone.device)
    rows = torch.tensor([0, 3, 4, 9, 3])
    step = ExampleGradients(objective, parameters, tiny_setup)
    assert step.reads_features_alone()
    found, expected = joined(step.of_parameters(rows)), one_by_one(objective, parameters, tiny_setup, rows)
    assert found.keys() == expected.keys()
    for each, gradient in expected.items():
        torch.testing.assert_close(found[each], gradient, rtol=1e-5, atol=1e-5)
    assert expected["ctx"].flatten(1).norm(dim=1).min() > 0.1


def test_a_tower_without_a_batched_backward_pass_goes_one_by_one(tiny_setup, toy_task, monkeypatch):
    objective = objective_of(tiny_setup, toy_task.clients[2])
    parameters, rows = objective.parameters(tiny_setup.backbone.device), torch.arange(4)
    expected = joined(ExampleGradients(objective, parameters, tiny_setup).of_parameters(rows))
    autograd = torch.autograd.grad

    def unbatched(*arguments, is_grads_batched=False, **options):
        if is_grads_batched:
            raise RuntimeError("no batching rule")
        return autograd(*arguments, **options)

    monkeypatch.setattr(torch.autograd, "grad", unbatched)
    found = joined(ExampleGradients(objective, parameters, tiny_setup).of_parameters(rows))
    torch.testing.assert_close(found["ctx"], expected["ctx"], rtol=1e-5, atol=1e-5)


def test_gradients_of_the_features_are_the_formula(setup, toy_task):
    """``c_j = s (softmax(s T x_j) - onehot(y_j)) x_j^T``, without what turns no feature: lengths do not count."""
    data = toy_task.clients[2]
    objective = objective_of(setup, data)
    step = ExampleGradients(objective, objective.parameters(setup.backbone.device), setup, is_unit_length=True)
    rows = torch.tensor([7, 0, 2])
    found = joined(step.of_features(rows))["text 0"]

    texts = step.features["text 0"].detach()
    assert torch.allclose(texts.norm(dim=-1), torch.ones(len(texts)))
    images, scale = F.normalize(setup.features.images(data.train), dim=-1)[rows], setup.backbone.logit_scale
    shares = (scale * images @ texts.T).softmax(-1) - F.one_hot(data.train.labels[rows], len(texts))
    formula = scale * shares[:, :, None] * images[:, None]
    across = formula - (formula * texts).sum(-1, keepdim=True) * texts
    torch.testing.assert_close(found, across, rtol=1e-5, atol=1e-5)
    assert formula.flatten(1).norm(dim=1).max() <= scale * 2**0.5


def test_the_features_gradients_go_back_as_one(tiny_setup, toy_task):
    """``J^T sum_j c_j`` is the gradient of the sum of losses."""
    objective = objective_of(tiny_setup, toy_task.clients[2])
    parameters, rows = objective.parameters(tiny_setup.backbone.device), torch.arange(10)
    step = ExampleGradients(objective, parameters, tiny_setup, is_unit_length=True)
    total = {name: c.sum(0) for name, c in joined(step.of_features(rows)).items()}
    expected = one_by_one(objective, parameters, tiny_setup, rows)["ctx"].sum(0)
    torch.testing.assert_close(step.pulled_back(total)["ctx"], expected, rtol=1e-4, atol=1e-4)


def test_views_of_an_example_are_averaged_before_clipping(setup):
    """An example is a row. Its loss is the mean over its views, and so is its gradient; only that is clipped."""
    views = F.normalize(torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)), dim=-1)  # examples, views
    labels, tokens = torch.tensor([0, 1]), setup.backbone.class_tokens(["red", "green"], 2)

    def loss(parameters, features, rows):
        logits = cosine_logits(views[rows].flatten(0, 1), features[0], 10.0)
        return F.cross_entropy(logits, labels[rows].repeat_interleave(3)), logits

    start = PromptState({"ctx": torch.zeros(2, setup.backbone.text_dim)})
    objective = LocalObjective(start, labels, loss, lambda p: [PromptedText(p["ctx"], tokens)])
    parameters = objective.parameters(setup.backbone.device)
    found = joined(ExampleGradients(objective, parameters, setup).of_parameters(torch.arange(2)))["ctx"]

    features = F.normalize(setup.backbone.encode_prompted_text(parameters["ctx"], tokens), dim=-1)
    losses = F.cross_entropy(10 * views.flatten(0, 1) @ features.T, labels.repeat_interleave(3), reduction="none")
    of_views = [torch.autograd.grad(value, parameters["ctx"], retain_graph=True)[0] for value in losses]
    torch.testing.assert_close(found, torch.stack(of_views).view(2, 3, 2, -1).mean(1), rtol=1e-5, atol=1e-6)

    limit = 0.5 * found.flatten(1).norm(dim=1).min().item()
    total = clipped_sum([{"ctx": found}], dict(objective.start), limit)
    by_hand = sum(gradient / gradient.norm() for gradient in found) * limit
    torch.testing.assert_close(total["ctx"].float(), by_hand, rtol=1e-5, atol=1e-6)


def test_a_loss_that_reads_the_parameters_itself_has_a_pass_for_each_example(setup):
    """Gradient of ``(a - x_j)^2`` is ``2 (a - x_j)``; no text is encoded."""
    values = torch.tensor([1.0, 2.0, 5.0])

    def loss(parameters, features, rows):
        gaps = parameters["a"] - values[rows]
        return gaps.square().mean(), gaps[:, None]

    objective = LocalObjective(PromptState({"a": torch.tensor([3.0])}), torch.arange(3), loss)
    step = ExampleGradients(objective, objective.parameters(torch.device("cpu")), setup)
    assert not step.reads_features_alone()
    assert joined(step.of_parameters(torch.arange(3)))["a"].tolist() == [[4.0], [2.0], [-4.0]]
    assert list(step.of_parameters(torch.arange(0))) == []


def test_a_loss_with_both_paths_is_seen(tiny_setup, toy_task):
    plain = objective_of(tiny_setup, toy_task.clients[2])

    def loss(parameters, features, rows):
        value, logits = plain.loss(parameters, features, rows)
        return value + rows.float().mean() * parameters["ctx"].square().sum(), logits

    objective = replace(plain, loss=loss)
    parameters, rows = objective.parameters(tiny_setup.backbone.device), torch.tensor([1, 5])
    step = ExampleGradients(objective, parameters, tiny_setup)
    assert not step.reads_features_alone()
    found, expected = joined(step.of_parameters(rows)), one_by_one(objective, parameters, tiny_setup, rows)
    torch.testing.assert_close(found["ctx"], expected["ctx"], rtol=1e-5, atol=1e-5)


def test_a_loss_that_asks_for_values_goes_one_row_at_a_time(setup, toy_task):
    plain = objective_of(setup, toy_task.clients[2])

    def loss(parameters, features, rows):
        assert [row.item() for row in rows]
        return plain.loss(parameters, features, rows)

    parameters, rows = plain.parameters(setup.backbone.device), torch.tensor([1, 5, 6])
    found = joined(ExampleGradients(replace(plain, loss=loss), parameters, setup).of_parameters(rows))
    expected = joined(ExampleGradients(plain, parameters, setup).of_parameters(rows))
    torch.testing.assert_close(found["ctx"], expected["ctx"], rtol=1e-5, atol=1e-6)


def test_penalties_are_no_part_of_them_and_have_a_gradient_of_their_own(setup, toy_task):
    pulled = objective_of(setup, toy_task.clients[2], "fedprox", mu=3.0)
    plain = objective_of(setup, toy_task.clients[2])
    parameters, rows = pulled.parameters(setup.backbone.device), torch.arange(4)
    with torch.no_grad():
        parameters["ctx"] += 0.5
    step, other = ExampleGradients(pulled, parameters, setup), ExampleGradients(plain, parameters, setup)
    assert torch.equal(joined(step.of_parameters(rows))["ctx"], joined(other.of_parameters(rows))["ctx"])
    assert step.of_penalties()["ctx"].flatten().tolist() == pytest.approx([1.5] * 12)
    assert other.of_penalties() == {}


# ------------------------------------------------------------------------------------------------------ the clipped sum

NUMBERS = st.floats(width=32)
EXAMPLE = st.lists(NUMBERS, min_size=5, max_size=5)
LIKE = {"a": torch.zeros(2), "b": torch.zeros(1, 3)}


def rows_of(examples):
    rows = torch.tensor(examples, dtype=torch.float32).view(-1, 5)
    return [{"a": rows[:, :2], "b": rows[:, 2:].reshape(-1, 1, 3)}] if len(rows) else []


def length(gradients):
    return torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt().item()


@settings(max_examples=100, deadline=None)
@given(st.lists(EXAMPLE, max_size=6), EXAMPLE, st.floats(1e-3, 1e3), st.integers(0, 6))
def test_one_example_more_changes_the_sum_by_at_most_the_limit(others, example, limit, place):
    without = clipped_sum(rows_of(others), LIKE, limit)
    with_it = clipped_sum(rows_of([*others[:place], example, *others[place:]]), LIKE, limit)
    assert all(tensor.isfinite().all() for tensor in with_it.values())
    assert length({name: with_it[name] - without[name] for name in LIKE}) <= limit * (1 + 1e-6)


def test_short_gradients_are_summed_as_they_are_and_long_ones_shortened():
    found = clipped_sum(rows_of([[3.0, 0, 0, 4, 0], [0, 0.5, 0, 0, 0]]), LIKE, 1.0)
    assert found["a"].tolist() == pytest.approx([0.6, 0.5])
    assert found["b"].flatten().tolist() == pytest.approx([0, 0.8, 0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_counts_as_zero(bad):
    found = clipped_sum(rows_of([[bad, 0, 0, 0, 0], [1.0, 0, 0, 0, 0]]), LIKE, 1.0)
    assert found["a"].tolist() == [1.0, 0.0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 50.0))
def test_sensitivity_in_feature_space(seed, limit):
    """Neighbours that differ in one image, whatever its feature and label: the released sum differs by C at most."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 4, generator=draw) * 10 ** (4 * torch.rand(6, 1, generator=draw) - 2)
    labels = torch.randint(0, 3, (6,), generator=draw)
    texts = F.normalize(torch.randn(3, 4, generator=draw), dim=-1)

    def loss(features, row):
        return F.cross_entropy(cosine_logits(images[row[None]], features[0], 100.0), labels[row[None]])

    each = example_gradients._each_gradient(loss, [texts], torch.arange(6))[0]
    whole = clipped_sum([{"text 0": each}], {"text 0": texts}, limit)["text 0"]
    part = clipped_sum([{"text 0": each[:5]}], {"text 0": texts}, limit)["text 0"]
    assert (whole - part).norm().item() <= limit * (1 + 1e-6)
