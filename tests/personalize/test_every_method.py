"""Every white-box method's run can be personalised, exported and joined by a newcomer, or says in one line why not."""

from __future__ import annotations

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.evaluation import local_accuracy
from promptfed.examples.base import Sample
from promptfed.method import METHODS
from promptfed.personalize.every_client import personalize_run
from promptfed.personalize.onboard import onboard
from promptfed.personalize.options import OnboardOptions, PersonalizeOptions
from promptfed.tasks.sources.base import Source

CANNOT_TUNE = {"zero_shot"}
NEEDS_KNOWN_DOMAINS = {"fedapt", "feddpt"}


@pytest.fixture(
    params=sorted(
        n
        for n, kind in ((name, METHODS[name]) for name in METHODS)
        if kind.access != "black box"
        and kind.model_kind == "dual encoder"
        and not kind.only_texts
        and not kind.only_questions
    )
)
def name(request, backbone):
    if METHODS[request.param].requires - backbone.abilities:
        pytest.skip("the toy backbone cannot do what this method needs")
    return request.param


@pytest.fixture
def finished(finish, name):
    fields = METHODS[name].Config.model_fields
    wanted = {
        "n_ctx": 3,
        "lr": 0.05,
        "batch_size": 3,
        "rank": 2,
        "class_specific": False,
        "n_private": 1,
        "side": "text",
        "n_visual": 0,
    }
    return finish(name, only=True, **{key: value for key, value in wanted.items() if key in fields})


def test_a_run_is_personalised_and_exported(finished, toy_task, name):
    options = PersonalizeOptions(alphas=(0.0, 0.5, 1.0))
    if name in CANNOT_TUNE:
        with pytest.raises(ConfigError, match="trains nothing"):
            personalize_run(finished, toy_task, options)
        return
    curve = personalize_run(finished, toy_task, options)
    assert curve["method"] == ("none" if finished.keeps_personal_prompts else "finetune")
    for data, client in zip(toy_task.clients, curve["clients"], strict=True):
        bundle = finished.bundle(data.client)
        assert bundle.meta.alpha == client["alpha"]
        if len(data.classes) == 1:
            assert client["local"] == (), "nothing to choose between"
            continue
        reached = local_accuracy(finished.method, bundle.prompt, toy_task, data, "test")
        assert reached == client["local"][curve["alphas"].index(client["alpha"])]


def test_a_newcomer_with_new_classes_joins(finished, make_split, name):
    samples = [Sample(item, k) for k in (0, 1) for item in make_split(40 + k, [4 + k] * 9).items]
    source, options = Source("dots", ("plum", "teal"), tuple(samples)), OnboardOptions(shots=3, val_shots=2)
    if name in CANNOT_TUNE | NEEDS_KNOWN_DOMAINS:
        with pytest.raises(ConfigError, match="--method none"):
            onboard(finished, source, "late", options)
        options = options.model_copy(update={"method": "none"})
    found = onboard(finished, source, "late", options)
    assert found.bundle.meta.classes == ("plum", "teal")
    features = finished.method.client_features(found.bundle.prompt, ["plum", "teal", "red"])
    assert torch.isfinite(features).all()
    assert found.deployed == found.test[found.alphas.index(found.bundle.meta.alpha)]
