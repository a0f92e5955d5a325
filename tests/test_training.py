"""Which stages a run has, and what it writes down when updates cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import Tensor

from promptfed.config import build_config
from promptfed.engines.base import never
from promptfed.engines.local import LocalEngine
from promptfed.errors import TrainingError
from promptfed.experiment import Experiment
from promptfed.progress import Progress
from promptfed.prompt_state import PromptState
from promptfed.resolve import resolve
from promptfed.runs.directory import RunDirectory
from promptfed.training import Training
from promptfed.types import Update


@pytest.fixture(scope="module")
def experiment():
    options = {"data": "icons:codicons,elusive", "clients": 2, "shots": 1, "rounds": 1,
               "task_options": {"test_per_class": 2, "val_shots": 1}, "method_options": {"n_ctx": 2}}  # fmt: skip
    return Experiment.build(resolve(build_config(options)))


def test_without_baselines_only_the_method_is_run_with_the_same_outcome(experiment, tmp_path):
    whole, part = (RunDirectory.create(tmp_path / name, experiment.config, label="") for name in ("whole", "part"))
    all_metrics = Training(experiment, whole).execute()
    metrics = Training(experiment, part, baselines=()).execute()
    assert {"zero_shot", "local_only", "template"}.isdisjoint(metrics)
    assert metrics["method"] == all_metrics["method"]
    assert metrics["prompt_sha256"] == all_metrics["prompt_sha256"]
    assert {e["stage"] for e in part.events.read() if "stage" in e} == {"promptfl"}
    assert not (tmp_path / "part" / "baselines").exists()


def test_training_alone_scores_no_test_image(experiment, tmp_path):
    run = RunDirectory.create(tmp_path / "run", experiment.config, label="")
    trained = Training(experiment, run, baselines=()).train()
    assert list(trained) == ["promptfl"]
    assert trained["promptfl"][1].round == 1
    assert run.read_metrics() is None
    assert "evaluation" not in {e["event"] for e in run.events.read()}


@pytest.mark.slow
def test_the_baselines_can_be_added_later(experiment, tmp_path):
    """A run of a comparison, taken up again as a run of its own."""
    run = RunDirectory.create(tmp_path / "run", experiment.config, label="")
    first = Training(experiment, run, baselines=()).execute()
    second = Training(experiment, run).execute()
    assert {"zero_shot", "local_only", "template"} <= set(second)
    assert second["method"] == first["method"]


class Altered(LocalEngine):
    """An engine in which ``change`` gets at each update before the server sees it."""

    def __init__(self, experiment: Experiment, change: Callable[[Update], Update]) -> None:
        stage = experiment.config.method
        super().__init__(experiment.worker(experiment.method(stage), stage))
        self.change = change

    def run_round(self, jobs, on_reply=None, should_stop=never, seconds=None):
        def changed(reply):
            return replace(reply, update=self.change(reply.update))

        heard = on_reply and (lambda reply: on_reply(changed(reply)))
        return [changed(reply) for reply in super().run_round(jobs, heard, should_stop, seconds)]


def with_prompt(update: Update, make: Callable[[Tensor], Tensor]) -> Update:
    return replace(update, shared=PromptState({name: make(tensor) for name, tensor in update.shared.items()}))


@pytest.mark.parametrize("factor", [1e9, -1e12, 1e30])
def test_an_update_that_is_refused_is_written_down_as_an_incident(experiment, tmp_path, factor):
    def change(update):
        return with_prompt(update, lambda tensor: tensor * factor) if update.client == 1 else update

    run = RunDirectory.create(tmp_path / "run", experiment.config, label="")
    notes = []
    progress = Progress()
    progress.note = notes.append
    Training(experiment, run, progress, baselines=(), engine=Altered(experiment, change)).execute()
    [incident] = [event for event in run.events.read() if event["event"] == "incident"]
    assert {name: incident[name] for name in ("stage", "kind", "round", "client")} == {
        "stage": "promptfl", "kind": "refused", "round": 1, "client": 1,
    }  # fmt: skip
    assert "times as long as is usual" in incident["why"]
    assert any(incident["why"] in note for note in notes)
    assert run.read_metrics() is not None


def test_a_calm_run_has_no_incident(experiment, tmp_path):
    run = RunDirectory.create(tmp_path / "run", experiment.config, label="")
    Training(experiment, run, baselines=(), engine=Altered(experiment, lambda update: update)).execute()
    assert [event for event in run.events.read() if event["event"] == "incident"] == []


@pytest.mark.parametrize("participation", [1.0, 0.5])
@pytest.mark.parametrize(
    "make",
    [
        lambda tensor: tensor * float("nan"),
        lambda tensor: tensor + float("inf"),
        lambda tensor: tensor[:1],
        lambda tensor: tensor[None],
    ],
    ids=["nan", "infinite", "shorter", "deeper"],
)
def test_a_run_without_any_usable_update_ends_in_one_line(experiment, tmp_path, make, participation):
    """At once where both clients took part, at the end of its only round where one did."""
    config = experiment.config.model_copy(update={"participation": participation})
    some = replace(experiment, config=config)
    run = RunDirectory.create(tmp_path / "run", config, label="")
    engine = Altered(some, lambda update: with_prompt(update, make))
    with pytest.raises(TrainingError) as error:
        Training(some, run, baselines=(), engine=engine).execute()
    assert "\n" not in str(error.value)
    assert str(error.value)
    if participation < 1:
        assert str(error.value).startswith("no update of promptfl could be used in any round: ")
    assert run.read_metrics() is None
    failures = [event["failure"] for event in run.events.read() if event["event"] == "client"]
    assert len(failures) == 2 * participation
    assert all(failure.startswith("refused: ") for failure in failures)
