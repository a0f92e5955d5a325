"""What list says that a method sends is what a run counts."""

from __future__ import annotations

import pytest

from promptfed.communication import round_bytes
from promptfed.config import build_config
from promptfed.experiment import Experiment
from promptfed.resolve import resolve
from promptfed.runs.directory import RunDirectory
from promptfed.training import Training


@pytest.fixture(scope="module")
def experiment_of():
    options = {"data": "icons:codicons,elusive", "clients": 2, "shots": 1, "rounds": 1,
               "task_options": {"test_per_class": 2, "val_shots": 1}}  # fmt: skip
    first = Experiment.build(resolve(build_config(options, {"method": "zero_shot"})))
    return lambda method: Experiment.build(resolve(build_config(options, {"method": method})), like=first)


@pytest.mark.parametrize("method", ["promptfl", "local_only", "zero_shot"])
def test_bytes_are_those_of_a_real_round(experiment_of, method, tmp_path):
    experiment = experiment_of(method)
    run = RunDirectory.create(tmp_path / "run", experiment.config, label="")
    Training(experiment, run, baselines=()).execute()
    sent = round_bytes(experiment)
    clients = [event for event in run.events.read() if event["event"] == "client"]
    assert {(event["bytes_down"], event["bytes_up"]) for event in clients} == {(sent.down, sent.up)}


def test_nothing_is_trained_or_encoded_as_an_image(experiment_of):
    experiment = experiment_of("promptfl")
    before = experiment.setup.backbone.calls.images
    assert round_bytes(experiment).up > 16 * 128 * 4
    assert experiment.setup.backbone.calls.images == before
