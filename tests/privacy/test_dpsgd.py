"""DP-SGD inside a client: what a step releases, what is counted, and what nobody can predict or see."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from promptfed.build_method import build_method
from promptfed.errors import ConfigError, TrainingError
from promptfed.local_training import LocalObjective, LocalTraining
from promptfed.privacy.accountant import Release
from promptfed.privacy.dpsgd import DPSGD, Batches
from promptfed.privacy.secret_key import SecretKey
from promptfed.prompt_state import PromptState
from promptfed.types import Broadcast

KEY, OTHER = SecretKey(bytes(range(32))), SecretKey(bytes(range(1, 33)))
SGD = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "lr": 1.0, "local_epochs": 1}


def straight(values, dim=1) -> LocalObjective:
    """Examples whose gradient with respect to ``a`` is their value, in each of ``dim`` coordinates."""
    values = torch.tensor(values)

    def loss(parameters, features, rows):
        return (parameters["a"].sum() * values[rows]).mean(), torch.zeros(len(rows), 2)

    return LocalObjective(PromptState({"a": torch.zeros(dim)}), torch.zeros(len(values), dtype=torch.int64), loss)


def jobs_of(method, task):
    return [(Broadcast(1, method.init_shared()), data, method.init_personal(data.client)) for data in task.clients]


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "examples", "expected"),
    [
        (32, 1, 160, Batches(32, 0.2, 10)),
        (32, 1, 20, Batches(20, 1.0, 2)),
        (32, 2, 160, Batches(64, 0.4, 6)),
        ("all", 1, 160, Batches(160, 1.0, 2)),
        ("auto", 1, 70, Batches(32, 32 / 70, 6)),
        (3, 1, 10, Batches(3, 0.3, 8)),
        (3, 1, 0, Batches(1, 1.0, 0)),
    ],
)
def test_batches_of_a_client(batch_size, accumulate, examples, expected):
    config = LocalTraining(batch_size=batch_size, accumulate=accumulate, local_epochs=2)
    assert Batches.of(config, examples, classes=20) == expected


def test_each_step_of_each_round_is_a_release():
    assert Batches(32, 0.2, 10).releases(0.8, 20) == (Release(0.8, 0.2, 200),)
    assert Batches(32, 0.2, 0).releases(0.8, 20) == Batches(32, 0.2, 10).releases(0.8, 0) == ()


def test_without_noise_a_full_step_is_that_of_clipped_gradients_over_the_fixed_size(setup):
    """Gradients 3 and -0.5 and 2, clipped to 1: 1 - 0.5 + 1 over three."""
    trained = DPSGD(KEY, clip=1.0, multiplier=0.0).trained(
        0, straight([3.0, -0.5, 2.0]), LocalTraining(**SGD), setup, 1
    )
    assert trained["a"].item() == pytest.approx(-(1 - 0.5 + 1) / 3)


def releases(monkeypatch, objective, config, setup, multiplier, round=1):
    """The sums of one client's round before and after the noise, their first values."""
    sums, original = [], DPSGD._with_noise

    def seen(trainer, total, round, label):
        noised = original(trainer, total, round, label)
        sums.append((total["a"][0].item(), noised["a"][0].item()))
        return noised

    monkeypatch.setattr(DPSGD, "_with_noise", seen)
    DPSGD(KEY, 1.0, multiplier).trained(0, objective, config, setup, round)
    return sums


def test_a_sum_is_divided_by_the_expected_size_whatever_the_batch_has(setup, monkeypatch):
    """Four steps of 20 examples, each in with probability 1/4; each of them moves ``a`` by -1/5."""
    config, objective = LocalTraining(**SGD, batch_size=5), straight([1.0] * 20)
    sums = [total for total, _ in releases(monkeypatch, objective, config, setup, 0.0)]
    assert len(sums) == 4
    trained = DPSGD(KEY, 1.0, 0.0).trained(0, objective, config, setup, 1)
    assert trained["a"].item() == pytest.approx(-sum(sums) / 5)
    assert len(set(sums)) > 1


def test_batches_are_poisson_and_an_empty_one_is_noise_alone(setup, monkeypatch):
    config, objective = LocalTraining(**SGD, batch_size=1), straight([1.0] * 80)
    found = releases(monkeypatch, objective, config, setup, 1.0)
    assert len(found) == 80, "each step is a release"
    sizes = np.array([total for total, _ in found])
    assert sizes.mean() == pytest.approx(1, abs=4 / 80**0.5)
    assert 10 < (sizes == 0).sum() < 50, "one in e of the batches is empty"
    assert all(noised != total for total, noised in found)


@pytest.mark.parametrize(("clip", "multiplier"), [(2.0, 0.5), (0.1, 3.0)])
def test_noise_has_the_promised_deviation(setup, clip, multiplier):
    objective = straight([0.0], dim=4000)
    values = DPSGD(KEY, clip, multiplier).trained(0, objective, LocalTraining(**SGD), setup, 1)["a"].numpy()
    assert kstest(values / (clip * multiplier), "norm").pvalue > 0.001
    assert values.std() == pytest.approx(clip * multiplier, rel=0.05)


def test_noise_comes_from_the_key_and_differs_by_client_round_and_step(setup, monkeypatch):
    objective, config = straight([0.0], dim=30), LocalTraining(**{**SGD, "local_epochs": 2})

    def noise(key=KEY, client=0, round=1, stage="", seed=0):
        return DPSGD(key, 1.0, 1.0, stage=stage).trained(client, objective, config, setup.agreeing(seed=seed), round)[
            "a"
        ]

    assert torch.equal(noise(), noise(seed=1)), "the run's seed, which every site knows, says nothing"
    for other in (noise(key=OTHER), noise(client=1), noise(round=2), noise(stage="again")):
        assert abs(np.corrcoef(noise(), other)[0, 1]) < 0.7
    (_, one), (_, two) = releases(monkeypatch, objective, config, setup, 1.0)
    assert one != two


def test_other_data_get_other_noise(setup):
    """Two releases with one noise would differ by exactly what the data differ in."""
    one, two = (
        DPSGD(KEY, 1.0, 1.0).trained(0, straight([v], 3), LocalTraining(**SGD), setup, 1)["a"] for v in (0.0, 0.1)
    )
    assert (one - two).abs().min() > 0.1 + 1e-3 or (one - two).abs().max() > 0.1 + 1e-3


@pytest.mark.parametrize("space", ["parameters", "features"])
def test_the_same_key_gives_the_same_bytes_and_no_figure_leaves_the_site(clip_setup, toy_task, space):
    method = build_method("promptfl", {"n_ctx": 3, "batch_size": 2}, clip_setup)
    jobs = jobs_of(method, toy_task)
    trainer = DPSGD(KEY, 1.0, 0.8, space)
    first, again = trainer.train_many(method, jobs), trainer.train_many(method, jobs[::-1])[::-1]
    for (update, kept), (other, _), job in zip(first, again, jobs, strict=True):
        assert update.shared.to_bytes() == other.shared.to_bytes()
        assert (update.samples, len(kept)) == (len(job[1].train), 0)
        assert math.isnan(update.loss)
        assert math.isnan(update.accuracy)
        assert update.shared.is_finite()


@pytest.mark.parametrize("space", ["parameters", "features"])
@pytest.mark.parametrize("name", ["promptfl", "fedprox", "kgcoop", "dpfpl"])
def test_without_noise_and_clipping_full_batches_train_as_ever(clip_setup, toy_task, name, space):
    """The plain loop and DP-SGD with z 0 and a large C make the same steps, penalties and projections included."""
    options = {"n_ctx": 3, "batch_size": "all", "optimizer": "sgd", "lr": 0.01, "local_epochs": 3}
    method = build_method(name, options, clip_setup)
    jobs = jobs_of(method, toy_task)
    for (plain, personal), (private, own) in zip(
        method.train_many(jobs), DPSGD(KEY, 1e6, 0.0, space).train_many(method, jobs), strict=True
    ):
        assert (plain.shared - private.shared).norm() < 1e-4 * (plain.shared - method.init_shared()).norm() + 1e-6
        assert all((personal[n] - own[n]).norm() < 1e-3 for n in personal)


def test_dpfpl_clips_all_that_it_trains_jointly(clip_setup, toy_task):
    """The step of SGD at rate 1 without noise is C at most, over p_G, u and v together; the residual stays."""
    method = build_method("dpfpl", {"n_ctx": 3, "rank": 2, "residual": "constant", **SGD}, clip_setup)
    data = toy_task.clients[2]
    start = PromptState(
        {n: torch.randn(t.shape, generator=torch.Generator().manual_seed(1)) for n, t in personal_of(method)}
    )
    objective = method.problem(Broadcast(1, method.init_shared()), data, start)
    assert objective.constants == {"residual"}
    objective = replace(objective, project=lambda parameters: None)
    trained = DPSGD(KEY, 0.25, 0.0).trained(2, objective, method.config, clip_setup, 1)
    change = trained - objective.start
    assert change["residual"].norm() == 0
    assert min(change[name].norm() for name in ("ctx", "u", "v")) > 0
    assert 0.05 < change.norm() <= 0.25 * (1 + 1e-5)


def personal_of(method):
    rank, n_ctx, dim = method.rank, method.tuner.n_ctx, method.setup.backbone.text_dim
    return (("u", torch.zeros(n_ctx, rank)), ("v", torch.zeros(rank, dim)), ("residual", torch.zeros(n_ctx, dim)))


def test_feature_space_needs_a_loss_of_features(setup):
    with pytest.raises(ConfigError, match=r"use privacy\.clip_space=parameters"):
        DPSGD(KEY, 1.0, 1.0, "features").trained(0, straight([1.0]), LocalTraining(), setup, 1)


def test_a_prompt_that_is_not_finite_is_an_error_and_a_gradient_that_is_not_counts_as_none(setup):
    config = LocalTraining(**SGD)
    assert DPSGD(KEY, 1.0, 0.0).trained(0, straight([math.nan, 1.0]), config, setup, 1)["a"].item() == -0.5
    with pytest.raises(TrainingError, match="client 0 in round 1 is not finite"):
        DPSGD(KEY, 1e9, 1.0).trained(0, straight([1.0]), config.model_copy(update={"lr": 1e38}), setup, 1)


def test_a_client_without_examples_makes_no_step(setup):
    assert DPSGD(KEY, 1.0, 1.0).trained(0, straight([]), LocalTraining(), setup, 1) == PromptState(
        {"a": torch.zeros(1)}
    )


def test_adam_and_the_schedule_are_those_of_the_method(setup):
    """The first step of Adam is the rate, whatever the gradient; the last round of a cosine is nearly still."""
    objective, config = straight([5.0]), LocalTraining(lr=0.5, local_epochs=1)
    first, last = (DPSGD(KEY, 1.0, 0.0).trained(0, objective, config, setup, round)["a"].item() for round in (1, 3))
    assert first == pytest.approx(-0.5, rel=1e-3)
    assert last == pytest.approx(-config.rate(3, 3), rel=1e-3)
