from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from promptfed.aggregators.base import build_aggregator
from promptfed.class_losses import sigmoid_bias, sigmoid_loss
from promptfed.class_sample import draw_classes
from promptfed.config import validate
from promptfed.errors import ConfigError, TrainingError
from promptfed.local_training import GradientMethod, LocalObjective, LocalTraining, train_clients
from promptfed.method import METHODS
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.prompts.text_context import ContextConfig, ContextTuner
from promptfed.seeding import torch_stream
from promptfed.types import NO_PROMPT, Broadcast


def quadratic(target: float, steps: int = 1, **more) -> LocalObjective:
    """Minimise ``(x - target)^2 / 2`` on ``steps`` rows that all say the same."""

    def loss(parameters, features, rows):
        return 0.5 * (parameters["x"] - target).square().sum(), torch.zeros(len(rows), 2)

    return LocalObjective(PromptState({"x": torch.zeros(1)}), torch.zeros(steps, dtype=torch.int64), loss, **more)


def plain(**options) -> LocalTraining:
    return LocalTraining(**{"optimizer": "sgd", "momentum": 0, "lr": 0.5, "schedule": "constant", **options})


def test_a_step_of_gradient_descent_by_hand(setup):
    [(found, _)] = train_clients([(0, quadratic(4.0))], plain(local_epochs=2), setup, round=1)
    assert found["x"].item() == pytest.approx(3.0), "0 -> 2 -> 3: each step halves the way to 4"


def test_clients_side_by_side_end_where_each_would_alone(setup, toy_task):
    """Also when one has more batches than another, which goes on alone then."""
    tuner = ContextTuner(ContextConfig(local_epochs=2, batch_size=3), setup)
    problems = [(data.client, tuner.problem(tuner.start(), data)) for data in toy_task.clients]
    together = train_clients(problems, tuner.config, setup, round=2)
    for (client, problem), (state, fit) in zip(problems, together, strict=True):
        [(alone, alone_fit)] = train_clients([(client, problem)], tuner.config, setup, round=2)
        assert torch.allclose(state["ctx"], alone["ctx"], atol=1e-5)
        assert fit.loss == pytest.approx(alone_fit.loss, abs=1e-5)


def test_train_many_is_train_for_each(setup, toy_task):
    method = PromptFL(PromptFLConfig(), setup)
    jobs = [(Broadcast(1, method.init_shared()), data, NO_PROMPT) for data in toy_task.clients]
    for (update, _), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, _ = method.train(*job)
        assert (update.client, update.samples) == (alone.client, alone.samples)
        assert torch.allclose(update.shared["ctx"], alone.shared["ctx"], atol=1e-5)


def test_texts_of_all_clients_share_a_pass(setup, toy_task, monkeypatch):
    passes = []
    encode = setup.backbone.encode_embeddings
    monkeypatch.setattr(
        setup.backbone, "encode_embeddings", lambda v, end, deep=None: passes.append(len(v)) or encode(v, end, deep)
    )
    tuner = ContextTuner(ContextConfig(local_epochs=1, batch_size=100), setup)
    train_clients([(d.client, tuner.problem(tuner.start(), d)) for d in toy_task.clients], tuner.config, setup, 1)
    assert passes == [3 * 4], "three clients with one batch and four classes each"


def test_factors_scale_the_rate_of_single_parameters(setup):
    start = PromptState({"fast": torch.zeros(1), "slow": torch.zeros(1)})

    def loss(parameters, features, rows):
        return -(parameters["fast"] + parameters["slow"]).sum(), torch.zeros(len(rows), 2)

    problem = LocalObjective(start, torch.zeros(1, dtype=torch.int64), loss, lr_multipliers={"fast": 10.0})
    [(found, _)] = train_clients([(0, problem)], plain(lr=0.1, local_epochs=1), setup, round=1)
    assert (found["fast"].item(), found["slow"].item()) == (pytest.approx(1.0), pytest.approx(0.1))


def test_settle_puts_parameters_right_after_each_step(setup):
    problem = quadratic(4.0, project=lambda parameters: parameters["x"].clamp_(max=1.5))
    [(found, _)] = train_clients([(0, problem)], plain(local_epochs=3), setup, round=1)
    assert found["x"].item() == 1.5


def test_starts_are_left_as_they_were(setup):
    problem = quadratic(4.0)
    train_clients([(0, problem)], plain(), setup, round=1)
    assert problem.start["x"].item() == 0


def test_one_bad_loss_names_its_client(setup):
    with pytest.raises(TrainingError, match="client 7 in round 3 is nan"):
        train_clients([(1, quadratic(1.0)), (7, quadratic(float("nan")))], plain(), setup, round=3)


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "Adam")])
def test_optimizers_by_name(name, kind):
    made = LocalTraining(optimizer=name).optimizer_for({"x": torch.zeros(1), "y": torch.zeros(1)}, 0.25, {"y": 2.0})
    assert type(made).__name__ == kind
    assert [trained.rate for trained in made.tensors] == [0.25, 0.5]


def test_labels_are_those_of_the_shuffled_rows(setup):
    seen = []

    def loss(parameters, features, rows):
        seen.extend(rows.tolist())
        logits = F.one_hot(torch.arange(5))[rows].float() * parameters["x"]
        return F.cross_entropy(logits, rows), logits

    problem = LocalObjective(PromptState({"x": torch.ones(1)}), torch.arange(5), loss)
    [(_, fit)] = train_clients([(0, problem)], plain(batch_size=2, local_epochs=1), setup, round=1)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert fit.accuracy == 1.0


SIGMOID = {
    "promptfl", "finetune", "local_only", "fedper", "dpfpl", "promptfolio", "fedtpg", "pfedpg", "pfedprompt", "maple",
    "tpfl", "feddpt", "kgcoop", "fedprox", "fedmgp", "fedmvp", "fedpha", "reliable",
}  # fmt: skip
"""Methods whose examples have a loss of scaled cosines, whatever else they add to it."""


def test_sigmoid_loss_and_its_gradient_by_hand():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]], requires_grad=True)
    targets = F.one_hot(torch.tensor([0, 2]), 3)
    loss = sigmoid_loss(logits, targets)
    first = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1)) + math.log(1 + math.exp(0.5))
    second = math.log(2) + math.log(1 + math.exp(3)) + math.log(1 + math.exp(2))
    assert loss.item() == pytest.approx((first + second) / 2)
    loss.backward()
    by_hand = (logits.detach().sigmoid() - targets) / 2
    assert torch.allclose(logits.grad, by_hand)


def test_the_bias_is_the_models_or_that_of_zero_shot(setup, toy_task, monkeypatch):
    data = toy_task.clients[0]
    scores = setup.model.template_scores(setup.templates[0], data.train, setup.classes)
    average = torch.stack([torch.log(row.exp().sum()) for row in scores.double()]).mean()
    assert sigmoid_bias(setup, data) == pytest.approx(-average.item(), rel=1e-5)
    monkeypatch.setattr(setup.backbone, "logit_bias", -12.5)
    assert sigmoid_bias(setup, data) == -12.5


@pytest.mark.parametrize("name", sorted(SIGMOID - {"fedmgp", "fedmvp", "fedpha"}))  # several, or a pull beside it
def test_methods_minimise_the_sigmoid_loss_of_their_logits(name, clip_setup, toy_task):
    kind, data = METHODS[name], toy_task.clients[2]
    setup = clip_setup.agreeing(domains=tuple(f"d{client.client % 2}" for client in toy_task.clients))
    options = {"n_ctx": 2} if name != "fedper" else {"n_ctx": 2, "n_private": 1}
    method = kind(kind.Config(loss="sigmoid", **options), setup)
    server = method.server_side(build_aggregator("mean", {}))
    shared = server.broadcast(method.init_shared(), server.init(method.init_shared()), data.client)
    problem = method.problem(Broadcast(1, shared), data, method.init_personal(data.client))
    parameters = {name: tensor.clone().requires_grad_() for name, tensor in problem.start.items()}
    features = setup.backbone.encode_prompted_texts(list(problem.texts(parameters)))
    rows = torch.arange(2)
    loss, logits = problem.loss(parameters, features, rows)
    targets = F.one_hot(problem.labels[rows], logits.shape[1])
    expected = sigmoid_loss(logits + sigmoid_bias(setup, data), targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert sum(float(tensor.grad.abs().sum()) for tensor in parameters.values() if tensor.grad is not None) > 0


def test_other_methods_refuse_the_sigmoid_loss(setup):
    kinds = {name: METHODS[name] for name in METHODS if issubclass(METHODS[name], GradientMethod)}
    ours = {name: kind for name, kind in kinds.items() if kind.__module__.startswith("promptfed.")}
    assert {name for name, kind in ours.items() if kind.takes_sigmoid_loss} == SIGMOID
    with pytest.raises(ConfigError, match=r"which FedPGP does not take: .*--set method.loss=cross_entropy"):
        METHODS["fedpgp"](METHODS["fedpgp"].Config(loss="sigmoid"), setup)


def test_a_client_with_one_class_learns_by_the_sigmoid_loss_alone(setup, toy_task):
    """A softmax over one class is 1 whatever the prompt says, so it leaves the prompt as it was, to the bit."""
    data = toy_task.clients[0]
    assert data.classes == (0,)
    moved = {}
    for loss in ("cross_entropy", "sigmoid"):
        method = PromptFL(PromptFLConfig(loss=loss, label_space="own"), setup)
        start = method.init_shared()
        update, _ = method.train(Broadcast(1, start), data, NO_PROMPT)
        moved[loss] = (update.shared - start).norm()
    assert moved["cross_entropy"] == 0
    assert moved["sigmoid"] > 0.01


@pytest.mark.parametrize("value", [0, -3, 1.5, True, "many", None, [8]])
def test_a_batch_size_is_a_count_or_a_word(value):
    with pytest.raises(ConfigError, match=r"'batch_size' is .*give a number of examples from 1, or 'all' or 'auto'"):
        validate(LocalTraining, {"batch_size": value}, "method option")


@pytest.mark.parametrize(("value", "kept"), [("all", "all"), ("auto", "auto"), (8, 8), ("8", 8), (8.0, 8)])
def test_batch_sizes(value, kept):
    assert LocalTraining(batch_size=value).batch_size == kept


def steps_of(setup, data, **options):
    """Train one client for an epoch: (context, texts encoded, accuracy in training)."""
    tuner = ContextTuner(ContextConfig(local_epochs=1, n_ctx=3, **options), setup)
    problem, before = tuner.problem(tuner.start(), data), setup.backbone.calls.texts
    [(found, fit)] = train_clients([(data.client, problem)], tuner.config, setup, round=1)
    return found["ctx"], setup.backbone.calls.texts - before, fit


def test_all_local_data_are_one_step_of_one_pass(setup, toy_task, monkeypatch):
    """In parts, so that the logits of many images and classes never stand side by side; with the same step."""
    data = toy_task.clients[2]
    large, texts, large_fit = steps_of(setup, data, batch_size=10**6)
    monkeypatch.setattr("promptfed.local_training.BATCH", 3)
    every, texts_of_all, fit = steps_of(setup, data, batch_size="all")
    assert texts == texts_of_all == 4, "one step of four classes"
    assert torch.allclose(every, large, atol=1e-6)
    assert fit.loss == pytest.approx(large_fit.loss, rel=1e-5)
    assert fit.accuracy == large_fit.accuracy


def test_clients_side_by_side_may_have_steps_in_parts(setup, toy_task):
    tuner = ContextTuner(ContextConfig(local_epochs=1, batch_size=2, accumulate=3, class_sample=1), setup)
    problems = [(data.client, tuner.problem(tuner.start(), data)) for data in toy_task.clients]
    together = train_clients(problems, tuner.config, setup, round=1)
    for (client, problem), (state, _) in zip(problems, together, strict=True):
        [(alone, _)] = train_clients([(client, problem)], tuner.config, setup, round=1)
        assert torch.allclose(state["ctx"], alone["ctx"], atol=1e-5)


def test_a_sample_of_classes_encodes_no_others(setup, toy_task):
    _, texts, fit = steps_of(setup, toy_task.clients[0], batch_size=3, class_sample=1)
    assert texts == 2, "the one class that the client has, and one other"
    assert 0 <= fit.accuracy <= 1


def test_a_loss_that_takes_no_sample_is_refused_in_one_line(setup):
    with pytest.raises(ConfigError, match=r"'class_sample' does not go with this method.*leave it out"):
        train_clients([(0, quadratic(1.0))], plain(class_sample=5), setup, round=1)


def test_the_choice_of_larger_steps_is_said(setup, toy_task, monkeypatch):
    """And it is the one that training makes."""
    monkeypatch.setattr("promptfed.local_batches.FEW_CLASSES", 3)
    monkeypatch.setattr("promptfed.local_batches.TEXTS_AN_EPOCH", 4)
    monkeypatch.setattr("promptfed.local_batches.BATCH", 2)
    monkeypatch.setattr("promptfed.local_training.BATCH", 2)
    [note] = PromptFL(PromptFLConfig(), setup).data_notes(toy_task.clients)
    assert note.startswith("4 classes: a step has up to 10 examples instead of 2")
    assert PromptFL(PromptFLConfig(batch_size=2), setup).data_notes(toy_task.clients) == ()
    assert steps_of(setup, toy_task.clients[2])[1] == 4, "one step"
    monkeypatch.setattr("promptfed.local_batches.FEW_CLASSES", 4)
    assert PromptFL(PromptFLConfig(), setup).data_notes(toy_task.clients) == ()
    assert steps_of(setup, toy_task.clients[2])[1] == 20, "five steps"


def test_a_sigmoid_loss_over_a_sample_is_right_on_average():
    """Every draw of two of the other four classes, once: their mean is the loss over all classes."""
    logits, labels = torch.tensor([[2.0, -1.0, 0.5, 0.1, -3.0]]), torch.tensor([2])
    samples = [draw_classes(labels, 5, 2, torch_stream(seed, "draw")) for seed in range(100)]
    different = {tuple(sample.columns.tolist()): sample for sample in samples}
    targets = F.one_hot(labels, 5)
    losses = [sigmoid_loss(each.of(logits, 1), each.of(targets, 1), each) for each in different.values()]
    assert len(losses) == 6
    assert torch.stack(losses).mean() == pytest.approx(sigmoid_loss(logits, targets).item(), rel=1e-5)
