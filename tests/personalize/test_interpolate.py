"""Between shared and own prompt: the formulas, the ends, who picks alpha and by what."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean, harmonic_mean

import pytest
import torch
from torch.nn import functional as F

from promptfed.build_method import build_method
from promptfed.cosines import cosine_logits
from promptfed.errors import ConfigError
from promptfed.evaluation import accuracy, evaluate, local_accuracy
from promptfed.personalize.interpolate import Sweep, choose, client_curve, curve_rows, natural_space
from promptfed.personalize.options import parse_alphas
from promptfed.prompt_state import PromptState
from promptfed.runs.personalized import AlphaChoice, ClientCurve
from promptfed.scoring import alike
from promptfed.types import ClientPrompt, Split

TENTHS = tuple(round(i / 10, 10) for i in range(11))


@pytest.fixture
def method(setup):
    return build_method("promptfl", {"n_ctx": 3}, setup)


@pytest.fixture
def deployed(method):
    shared = method.init_shared()
    other = torch.randn(shared["ctx"].shape, generator=torch.Generator().manual_seed(5))
    return ClientPrompt(shared, tuned=PromptState({"ctx": other}))


# ----------------------------------------------------------------------------------------- what is deployed


def test_the_ends_are_the_two_prompts(method, deployed):
    names = ["red", "pink"]
    for space in ("prompt", "features"):
        own = method.client_features(replace(deployed, alpha=1.0, space=space), names)
        assert torch.equal(own, method.class_features(deployed.tuned, PromptState(), names))
        general = method.client_features(replace(deployed, alpha=0.0, space=space), names)
        assert torch.equal(general, method.class_features(deployed.shared, PromptState(), names))


def test_in_between_each_space_has_its_formula(method, deployed):
    names, a = ["red", "green", "cyan"], 0.3
    ctx = (1 - a) * deployed.shared["ctx"] + a * deployed.tuned["ctx"]
    in_prompt = method.client_features(replace(deployed, alpha=a, space="prompt"), names)
    torch.testing.assert_close(in_prompt, method.tuner.class_features(PromptState({"ctx": ctx}), names))
    general, own = (method.tuner.class_features(p, names) for p in (deployed.shared, deployed.tuned))
    in_features = method.client_features(replace(deployed, alpha=a, space="features"), names)
    torch.testing.assert_close(in_features, F.normalize((1 - a) * general + a * own, dim=-1))
    assert not torch.allclose(in_prompt, in_features, atol=1e-3)


def test_logits_are_cosines_to_the_mixed_texts(method, deployed, toy_task):
    prompt, names = replace(deployed, alpha=0.4, space="prompt"), list(toy_task.base_classes)
    images = method.setup.features.images(toy_task.base_test)
    expected = cosine_logits(images, method.client_features(prompt, names), method.setup.backbone.logit_scale)
    torch.testing.assert_close(method.client_logits(prompt, names, toy_task.base_test), expected)


def test_tuned_prompts_are_different_prompts_unless_alpha_is_0(deployed):
    both = {0: deployed, 1: replace(deployed, tuned=2 * deployed.tuned), 2: replace(deployed, tuned=1 * deployed.tuned)}
    assert alike(both, both) == [[0, 2], [1]]
    without = {k: replace(p, alpha=0.0) for k, p in both.items()}
    assert alike(without, without) == [[0, 1, 2]]
    assert not replace(deployed, alpha=0.0).is_personal
    assert not ClientPrompt(deployed.shared).is_personal


# --------------------------------------------------------------------------------------------------- alphas


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,0.1,...,1", TENTHS),
        ("0, 0.25, ... , 1", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("1,0.5,0", (0.0, 0.5, 1.0)),
        ("0.3", (0.3,)),
        ("1,0.9,...,0.7,0", (0.0, 0.7, 0.8, 0.9, 1.0)),
        ("0,0,1", (0.0, 1.0)),
    ],
)
def test_lists_of_alphas(text, expected):
    assert parse_alphas(text) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "0,...,1",
        "...,1",
        "0,0.1,...",
        "0,0.3,...,1",
        "0,0,...,1",
        "0,1.5",
        "-0.1,1",
        "nan,1",
        "0,1,...,1",
        "0,1,...,inf",
    ],
)
def test_lists_that_make_no_sense_are_one_line(text):
    with pytest.raises(ConfigError) as error:
        parse_alphas(text)
    assert str(error.value).startswith(f"--interpolate '{text}'")
    assert "0,0.5,1" in str(error.value)


# ---------------------------------------------------------------------------------------------------- sweep


@pytest.mark.parametrize("space", ["prompt", "features"])
def test_a_sweep_is_the_evaluation_at_each_alpha(method, deployed, toy_task, space):
    prompt = replace(deployed, space=space)
    sweep = Sweep(method, prompt, TENTHS)
    for classes, split, among in (
        (toy_task.base_classes, toy_task.base_test, None),
        (toy_task.new_classes, toy_task.new_test, None),
        (toy_task.base_classes, toy_task.clients[2].test, (3, 2)),
    ):
        expected = [accuracy(method, replace(prompt, alpha=a), classes, split, among) for a in TENTHS]
        assert sweep.accuracies(classes, split, among) == tuple(expected)


def test_feature_space_encodes_each_list_of_names_twice_however_many_alphas(method, deployed, toy_task):
    calls, sweep = method.setup.backbone.calls, Sweep(method, replace(deployed, space="features"), TENTHS)
    sweep.accuracies(toy_task.base_classes, toy_task.base_test)
    sweep.accuracies(toy_task.base_classes, toy_task.base_test)
    assert calls.texts == 2 * len(toy_task.base_classes)


def test_a_method_with_logits_of_its_own_mixes_these(setup, toy_task):
    method = build_method("fedclip", {}, setup)
    shared = method.init_shared()
    other = shared.map(lambda t: t + torch.randn(t.shape, generator=torch.Generator().manual_seed(1)))
    prompt = ClientPrompt(shared, tuned=other, space="features")
    names, split = list(toy_task.base_classes), toy_task.base_test
    ends = [method.logits(p, PromptState(), names, split) for p in (shared, other)]
    mixed = method.client_logits(replace(prompt, alpha=0.25), names, split)
    torch.testing.assert_close(mixed, 0.75 * ends[0] + 0.25 * ends[1])
    found = Sweep(method, prompt, (0.0, 0.25, 1.0)).accuracies(names, split)
    assert found == tuple(accuracy(method, replace(prompt, alpha=a), names, split) for a in (0.0, 0.25, 1.0))


def test_no_images_no_accuracies(method, deployed, toy_task):
    nothing = Split((), torch.zeros(0, dtype=torch.int64))
    assert Sweep(method, deployed, TENTHS).accuracies(toy_task.base_classes, nothing) == ()


def test_natural_space(setup, method, deployed):
    assert natural_space(method, deployed) == "prompt"
    local = build_method("local_only", {"n_ctx": 3}, setup)
    assert natural_space(local, ClientPrompt(PromptState(), local.init_personal(0))) == "features"


# ------------------------------------------------------------------------------------------------- choosing


def test_equal_accuracies_go_to_the_smaller_alpha():
    choice = choose((0.0, 0.5, 1.0), (0.5, 0.75, 0.75), 4)
    assert (choice.alpha, choice.place) == (0.5, 1)
    assert (
        choice.why
        == "75.0 % of 4 validation images right, the best of 3 values of alpha; the smallest of 2 that reach it"
    )
    assert choose((0.0, 0.5, 1.0), (0.1, 0.2, 0.3), 10).alpha == 1.0


def test_without_validation_images_the_shared_prompt_stays():
    choice = choose((0.2, 1.0), (), 0)
    assert choice.alpha == 0.2
    assert "no validation images" in choice.why


def test_only_validation_images_choose(method, deployed, toy_task):
    """Other test images change the figures, never the choice."""
    data = toy_task.clients[2]
    spoiled = replace(data, test=Split(data.test.items, 5 - data.test.labels))
    one = client_curve(method, deployed, TENTHS, toy_task, data)
    other = client_curve(method, deployed, TENTHS, toy_task, spoiled)
    assert one.choice == other.choice
    assert one.local == pytest.approx([1 - value for value in other.local])


def test_rows_are_means_over_clients_and_the_last_takes_each_clients_own():
    first = ClientCurve((0.5, 1.0), (0.2, 0.4), (0.1, 0.3), (0.6, 0.8), AlphaChoice(1.0, 1, ""))
    second = ClientCurve((0.7, 0.6), (), (0.5, 0.1), (0.2, 0.0), AlphaChoice(0.0, 0, ""))
    low, high, own = curve_rows((0.0, 1.0), [first, second])
    assert (low["val"], low["local"], low["base"], low["new"]) == pytest.approx((0.6, 0.2, 0.3, 0.4))
    assert high["hm"] == pytest.approx(harmonic_mean([0.4, 0.2, 0.4]))
    assert own["alpha"] is None
    assert (own["val"], own["local"], own["base"], own["new"]) == pytest.approx((0.85, 0.4, 0.4, 0.5))


def test_at_alpha_1_and_0_the_rows_are_the_runs_own_figures(finish, toy_task):
    finished = finish("promptfolio")
    prompts = {data.client: finished.prompt(data.client) for data in toy_task.clients}
    curves = [client_curve(finished.method, prompts[d.client], (0.0, 1.0), toy_task, d) for d in toy_task.clients]
    shared, own, _ = curve_rows((0.0, 1.0), curves)
    figures = evaluate(finished.method, prompts, toy_task).figures
    assert (own["local"], own["local_std"]) == pytest.approx((figures.local, figures.local_std))
    assert (own["base"], own["new"], own["hm"]) == pytest.approx((figures.base, figures.new, figures.hm))
    newcomer = finished.prompt(None)
    choosing = [data for data in toy_task.clients if len(data.classes) > 1]
    local = [local_accuracy(finished.method, newcomer, toy_task, data, "test") for data in choosing]
    assert shared["local"] == pytest.approx(fmean(local))


def test_a_client_with_one_class_chooses_its_alpha_among_all_classes(finish, toy_task):
    """Of its own class every alpha gets 100 %: that says nothing about which is best."""
    finished = finish("promptfolio")
    for data in toy_task.clients:
        found = client_curve(finished.method, finished.prompt(data.client), (0.0, 0.5, 1.0), toy_task, data)
        chooses = len(data.classes) > 1
        sweep = Sweep(finished.method, finished.prompt(data.client), (0.0, 0.5, 1.0))
        assert found.val == sweep.accuracies(toy_task.base_classes, data.val, data.classes if chooses else None)
        assert len(found.local) == (3 if chooses else 0)
