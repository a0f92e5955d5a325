"""Descriptors: the fit by hand, what is sent, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.build_method import build_method
from promptfed.config import build_config
from promptfed.errors import ConfigError
from promptfed.examples.base import GradedText
from promptfed.experiment import Experiment
from promptfed.methods.descriptor import ridge_fit
from promptfed.prompt_state import PromptState
from promptfed.resolve import complete
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split

from ..tiny_language_models import CLASSES, TEXTS, WIDTH, client, setup


def graded(number, grades):
    rows = [tuple(g if k == number else math.nan for k in range(2)) for g in grades]
    items = tuple(GradedText(text, class_grades=row) for text, row in zip(TEXTS, rows, strict=True))
    split = Split(items, torch.full((4,), number))
    return ClientData(number, f"engine {number}", (number,), split, split, split)


@pytest.fixture(scope="module")
def method():
    return build_method("descriptor", {"ridge": 0.5}, setup("bert", domains=("a", "b")))


@pytest.mark.parametrize(("rows", "width"), [(40, 6), (5, 12)])
def test_the_fit_is_the_least_penalised_error(rows, width):
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(rows, width, generator=draw, dtype=torch.float64)
    grades = torch.rand(rows, generator=draw, dtype=torch.float64)
    fitted = ridge_fit(features, grades, 2.0).requires_grad_()
    loss = (features @ fitted[:-1] + fitted[-1] - grades).square().sum() + 2.0 * fitted[:-1].square().sum()
    loss.backward()
    torch.testing.assert_close(fitted.grad, torch.zeros_like(fitted), atol=1e-9, rtol=0)


def test_each_engine_sends_its_own_numbers_and_they_stand_side_by_side(method):
    shared = method.init_shared()
    updates = [method.train(Broadcast(1, shared), graded(k, g), NO_PROMPT)[0] for k, g in
               enumerate([[0.0, 1, 2, 3], [3.0, 0, 0, 1]])]  # fmt: skip
    assert [list(update.shared) for update in updates] == [["descriptor/0"], ["descriptor/1"]]
    assert all(tuple(t.shape) == (WIDTH + 1,) for update in updates for t in update.shared.values())
    assert method.uploads(1, shared) == {"descriptor/1": (WIDTH + 1,)}
    merged, _ = Mean(Mean.Config()).apply(shared, updates, PromptState())
    scores = method.logits(merged, NO_PROMPT, CLASSES, graded(0, [0.0] * 4).test)
    features = method.features(graded(0, [0.0] * 4).test.items)
    for k, update in enumerate(updates):
        vector = update.shared[f"descriptor/{k}"]
        torch.testing.assert_close(scores[:, k], features @ vector[:-1] + vector[-1])
    assert scores[:, 0].argmax() == 3
    assert scores[:, 1].argmax() == 0
    swapped = method.logits(
        merged, NO_PROMPT, [*reversed(CLASSES), "an engine nobody knows"], graded(0, [0.0] * 4).test
    )
    torch.testing.assert_close(swapped[:, :2], scores.flip(1))
    assert not swapped[:, 2].any()


def test_grades_of_others_are_never_read(method):
    data = graded(0, [0.0, 1, 2, 3])
    full = tuple(GradedText(i.text, class_grades=(i.grades[0], 9.0)) for i in data.train.items)
    known = ClientData(0, "engine 0", (0,), Split(full, data.train.labels), data.val, data.test)
    one, other = (method.train(Broadcast(1, method.init_shared()), d, NO_PROMPT)[0] for d in (data, known))
    assert torch.equal(one.shared["descriptor/0"], other.shared["descriptor/0"])


def test_examples_without_grades_are_refused(method):
    assert method.rounds == 1
    method.check_feasible([graded(0, [0.0] * 4), graded(1, [0.0] * 4)])
    with pytest.raises(ConfigError, match="use --task federated-search"):
        method.check_feasible([client(0), client(1)])


def test_a_table_is_the_descriptors_side_by_side_over_their_number():
    table = build_method("descriptor", {"ridge": 0.5, "table": True}, setup("bert", domains=("a", "b")))
    apart = build_method("descriptor", {"ridge": 0.5}, setup("bert", domains=("a", "b")))
    clients = [graded(k, g) for k, g in enumerate([[0.0, 1, 2, 3], [3.0, 0, 0, 1]])]
    shared = table.init_shared()
    assert table.uploads(1, shared) == {"descriptors": (2, WIDTH + 1)}
    updates = [table.train(Broadcast(1, shared), data, NO_PROMPT)[0] for data in clients]
    alone = [apart.train(Broadcast(1, apart.init_shared()), data, NO_PROMPT)[0] for data in clients]
    for k, update in enumerate(updates):
        assert update.samples == 1
        assert torch.equal(update.shared["descriptors"][k], alone[k].shared[f"descriptor/{k}"])
        assert not update.shared["descriptors"][1 - k].any()
    merged, _ = Mean(Mean.Config()).apply(shared, updates, PromptState())
    other, _ = Mean(Mean.Config()).apply(apart.init_shared(), alone, PromptState())
    test = clients[0].test
    torch.testing.assert_close(
        table.logits(merged, NO_PROMPT, CLASSES, test), apart.logits(other, NO_PROMPT, CLASSES, test)
    )


TERMS = {"secure_aggregation": True, "clip": 3.0}


def test_a_secure_sum_of_tables_is_the_plain_sum_to_its_rounding():
    pytest.importorskip("cryptography")
    from promptfed.privacy.fixed_point import FixedPoint
    from promptfed.privacy.release import SumMean, plain_sum
    from promptfed.privacy.simulated_sums import SimulatedSums

    model = setup("bert").language_model
    options = {"task": "federated-search", "privacy_options": TERMS, "task_options": {"judged": 30}, "baselines": []}
    experiment = Experiment.build(complete(build_config(options)), model_for=lambda form: model)
    tables = []
    for sums in (SimulatedSums(3.0), plain_sum):
        federation = experiment.federation(release=SumMean(3.0, sums))
        state, replies = federation.run_round(federation.start())
        tables.append(8 * state.shared["descriptors"])
    secure, plain = tables
    for k, reply in enumerate(replies):
        row = reply.update.shared["descriptors"][k].double()
        torch.testing.assert_close(plain[k].double(), row * min(1.0, 3.0 / float(row.norm())), atol=1e-6, rtol=1e-5)
    error = float((secure - plain).abs().max())
    assert 0 < error <= FixedPoint(3.0, 8).error_bound + 1e-6, "rounding, and no more"


def test_descriptors_apart_are_refused_where_the_server_learns_a_sum():
    options = {"task": "federated-search", "privacy_options": TERMS, "method_options": {"table": False}}
    with pytest.raises(ConfigError, match=r"only some clients send.*: use --set method\.table=true$"):
        Experiment.build(complete(build_config(options)), model_for=lambda form: setup("bert").language_model)


def test_noise_for_rounds_that_never_come_is_refused():
    options = {
        "task": "federated-search", "method": "descriptor", "method_options": {"table": True}, "rounds": 5,
        "privacy_options": {"dp": "client", "noise": 1.0, "delta": 1e-3},
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"noise for 5 rounds, and method 'descriptor' has 1: use --rounds 1$"):
        Experiment.build(build_config(options), model_for=lambda form: setup("bert").language_model)
    Experiment.build(build_config({**options, "rounds": 1}), model_for=lambda form: setup("bert").language_model)


def test_noise_of_client_privacy_is_added_to_all_rows_after_the_clip():
    from promptfed.privacy.release import PrivateMean
    from promptfed.privacy.secret_key import SecretKey

    table = build_method("descriptor", {"table": True}, setup("bert", domains=("a", "b")))
    shared, names = table.init_shared(), ["descriptors"]
    updates = [table.train(Broadcast(1, shared), graded(k, g), NO_PROMPT)[0] for k, g in
               enumerate([[0.0, 9, 9, 9], [0.1, 0.1, 0.1, 0.1]])]  # fmt: skip
    release = PrivateMean(SecretKey(bytes(32)), 1.0, 0.0, [0, 1])
    plain = release.mean(shared, names, updates, [0, 1], 1).shared["descriptors"]
    assert float(2 * plain[0].norm()) == pytest.approx(1), "shortened to the clip"
    assert float(2 * plain[1].norm()) == pytest.approx(float(updates[1].shared["descriptors"].norm()))
    spent = []
    release = PrivateMean(SecretKey(bytes(32)), 1.0, 3.0, [0, 1], account=spent.append)
    noised = release.mean(shared, names, updates, [0, 1], 1).shared["descriptors"]
    noise = 2 * (noised - plain)
    assert float(noise.std()) == pytest.approx(3.0, rel=0.3)
    assert noise[1].any()
    assert [one.multiplier for one in spent] == [3.0]
