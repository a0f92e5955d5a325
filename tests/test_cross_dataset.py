"""A run's prompts on data that it never saw: what a newcomer has, and zero-shot beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from promptfed.config import build_config
from promptfed.cross_dataset import evaluate_on
from promptfed.errors import DataError
from promptfed.evaluation import evaluate
from promptfed.experiment import Experiment
from promptfed.export.finished import FinishedRun
from promptfed.progress import Progress
from promptfed.resolve import resolve
from promptfed.runs.directory import RunDirectory
from promptfed.training import Training


def paint(folder, names, blue=30):
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (8, 8), (60 * k % 256, 29 * i, blue + len(names))).save(folder / name / f"{i}.png")
    return f"folder:{folder}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return {
        "own": paint(root / "own", ["ant", "bee", "cat", "dog", "eel", "fox"]),
        "other": paint(root / "other", ["yak", "emu", "owl", "cod"]),
        "domains": paint(root / "domains" / "photo", ["yak", "emu"])
        and paint(root / "domains" / "sketch", ["yak", "emu"], blue=90).removesuffix("/sketch"),
    }


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """local-only: everybody's prompt is personal, so that a newcomer's is another one."""
    options = {"data": data["own"], "clients": 3, "shots": 2, "rounds": 1, "method": "local_only",
               "partition": "classes", "backbone": "tiny", "task_options": {"val_shots": 1, "base_fraction": 0.5},
               "method_options": {"lr": 0.5, "n_ctx": 2}}  # fmt: skip
    config = resolve(build_config(options))
    run = RunDirectory.create(tmp_path_factory.mktemp("runs") / "own", config, label="")
    Training(Experiment.build(config), run).execute()
    return FinishedRun.load(run)


def test_own_data_give_the_runs_own_figures(finished, data):
    metrics = finished.run.read_metrics()
    found = evaluate_on(finished, [])
    assert set(found) == {data["own"]}
    assert found[data["own"]]["zero_shot"] == metrics["zero_shot"]
    assert found[data["own"]]["method"] == metrics["method"]


def test_other_data_are_scored_with_what_a_newcomer_has(finished, data):
    found = evaluate_on(finished, [data["other"]])
    assert list(found) == [data["own"], data["other"]]
    config = finished.run.config.model_copy(update={"data": data["other"], "clients": None})
    task = Experiment.build(config).task
    newcomer = evaluate(finished.method, {c.client: finished.prompt(None) for c in task.clients}, task).figures
    there = found[data["other"]]["method"]
    assert (there["local"], there["base"], there["new"]) == (newcomer.local, newcomer.base, newcomer.new)


def test_personal_prompts_are_used_on_the_runs_own_data_only(finished, data, monkeypatch):
    used = []

    def spy(method, prompts, task, measures):
        used.append((method.name, [len(prompt.personal) for prompt in prompts.values()]))
        return evaluate(method, prompts, task)

    monkeypatch.setattr("promptfed.cross_dataset.evaluate", spy)
    evaluate_on(finished, [data["other"]])
    assert [lengths for name, lengths in used if name == "local-only"] == [[1, 1, 1], [0, 0]]


def test_the_runs_own_data_are_not_scored_twice(finished, data, monkeypatch):
    assert list(evaluate_on(finished, [data["own"], data["other"]])) == [data["own"], data["other"]]
    own = Path(data["own"].removeprefix("folder:"))
    monkeypatch.chdir(own.parent)
    for same in (f"folder:{own.name}", f"folder:./{own.name}/", f"folder:{own}/../{own.name}"):
        assert list(evaluate_on(finished, [same])) == [data["own"]]


def test_domains_never_trained_on_are_scored_one_by_one(finished, data):
    found = evaluate_on(finished, [data["domains"]], {"partition": "domain"})[data["domains"]]
    assert set(found["method"]["domains"]) == set(found["zero_shot"]["domains"]) == {"photo", "sketch"}
    assert found["held_out"] == []


def test_own_data_that_are_gone_are_left_out_with_a_note(finished, data, monkeypatch, tmp_path):
    class Heard(Progress):
        notes: list[str] = []  # noqa: RUF012

        def note(self, text):
            self.notes.append(text)

    gone = finished.run.config.model_copy(update={"data": f"folder:{tmp_path / 'gone'}"})
    monkeypatch.setattr(finished.run, "config", gone)
    found = evaluate_on(finished, [data["other"]], progress=Heard())
    assert list(found) == [data["other"]]
    assert "does not exist" in Heard.notes[0]
    with pytest.raises(DataError, match="does not exist"):
        evaluate_on(finished, [])
