"""Every attack hurts the plain mean on the default task, at a strength at which it can."""

from __future__ import annotations

from functools import cache

import pytest

from promptfed.attacks.base import ATTACKS
from promptfed.config import build_config
from promptfed.evaluation import accuracy
from promptfed.experiment import Experiment
from promptfed.resolve import resolve
from promptfed.run_metrics import attack_figures

ROUNDS = 6
STRONG = {
    "signflip": {},
    "scale": {},
    "gaussian": {},
    "zero": {},
    "constant": {"value": 1.0},
    "alie": {"malicious": 0.4, "z": 20.0},
    "ipm": {},
    "minmax": {},
    "minsum": {},
    "freerider": {"malicious": 0.6},
    "sybil": {"strength": 5.0},
    "weightlie": {"strength": -5.0},
    "labelflip": {"malicious": 0.6},
    "randomlabels": {"malicious": 0.6},
    "backdoor": {"boost": 5.0},
}
HARMLESS = {"mimic"}
"""It is aimed at rules that choose among updates: under the mean it costs nothing here, by 6 of 10 clients neither."""
POINT = 0.01


@cache
def experiment() -> Experiment:
    return Experiment.build(resolve(build_config({"clients": 10, "rounds": ROUNDS, "method_options": {"n_ctx": 4}})))


def run(options):
    config = experiment().config.model_copy(update={"attack_options": options})
    attacked = Experiment.build(resolve(config), like=experiment())
    attacked.fill_features()
    federation = attacked.federation()
    state = federation.start()
    for _ in range(ROUNDS):
        state, _ = federation.run_round(state)
    task = attacked.task
    figure = accuracy(federation.method, federation.prompt(state, None), task.base_classes, task.base_test)
    return figure, attack_figures(attacked, (federation, state))


@cache
def clean() -> float:
    return run({})[0]


def test_every_attack_is_here():
    assert STRONG.keys() | HARMLESS == set(ATTACKS)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRONG)
def test_an_attack_hurts_the_plain_mean(name):
    figure, found = run({"name": name, **STRONG[name]})
    if name == "backdoor":
        assert found["asr"] > 0.5
        assert found["asr_start"] < 0.05
    else:
        assert clean() - figure > POINT, (clean(), figure)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["signflip", "labelflip", "freerider"])
def test_ray_does_what_the_local_engine_does(name, tmp_path):
    pytest.importorskip("ray")
    import promptfed

    options = {"clients": 4, "rounds": 2, "shots": 2, "method_options": {"n_ctx": 2}, "baselines": ()}
    extra = {"how": "replay"} if name == "freerider" else {}
    attack = {"attack_options": {"name": name, "malicious": 0.5, **extra}}
    local = promptfed.train(folder=tmp_path / "local", **options, **attack)
    ray = promptfed.train(folder=tmp_path / "ray", engine="ray", actors=2, **options, **attack)
    assert local.metrics["prompt_sha256"] == ray.metrics["prompt_sha256"]
    assert local.metrics["attack"] == ray.metrics["attack"]
    assert local.metrics["notes"][0].startswith(f"attack {name} (a simulation): 2 of 4 clients are malicious")
