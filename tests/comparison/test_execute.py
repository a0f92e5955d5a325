"""A comparison on real runs: the same as running each by itself, nothing twice, and no test image in the search."""

from __future__ import annotations

import json
from statistics import fmean, stdev

import pytest

from promptfed.comparison.execute import Comparison
from promptfed.comparison.plan import Plan
from promptfed.config import build_config
from promptfed.errors import DataError, RunError, TrainingError
from promptfed.experiment import Experiment
from promptfed.method import METHODS
from promptfed.progress import ComparisonProgress
from promptfed.report.comparison import sections
from promptfed.runs.directory import RunDirectory
from promptfed.training import Interrupted, Training

FIGURES = ("local", "base", "new", "hm")


class Heard(ComparisonProgress):
    """Remembers what it was told."""

    def __init__(self):
        self.begun, self.ended, self.notes = [], [], []

    def begin(self, number, total, what, seconds_left):
        self.begun.append((number, total, what, seconds_left))

    def end(self, figures):
        self.ended.append(figures)

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def compared(make_plan, tmp_path_factory):
    """(plan, folder, summary, what was said) of promptfl and the baselines on two seeds."""
    plan, folder, heard = make_plan(["promptfl"], 2), tmp_path_factory.mktemp("compared"), Heard()
    return plan, folder, Comparison(plan, folder, heard, observers="jsonl").execute(), heard


def events(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("**/events.jsonl"))}


def without_seconds(summary):
    return json.loads(json.dumps(summary), object_hook=lambda d: {k: v for k, v in d.items() if k != "seconds"})


def test_figures_are_those_of_a_run_by_itself(compared, tmp_path):
    plan, _, summary, _ = compared
    config = plan.config("promptfl", 1)
    run = RunDirectory.create(tmp_path / "alone", config, label="")
    alone = Training(Experiment.build(config), run).execute()
    for stage, method in (("zero_shot", "zero_shot"), ("local_only", "local_only"), ("method", "promptfl")):
        row = summary["methods"][method]["runs"][1]
        assert {name: row[name] for name in FIGURES} == {name: alone[stage][name] for name in FIGURES}


def test_means_and_deviations_over_seeds(compared):
    _, _, summary, _ = compared
    for method in summary["methods"].values():
        assert len(method["runs"]) == 2
        for name in FIGURES:
            values = [run[name] for run in method["runs"]]
            assert method[name] == {"mean": pytest.approx(fmean(values)), "std": pytest.approx(stdev(values))}


def test_bytes_a_round_are_those_of_all_clients(compared):
    _, folder, summary, _ = compared
    log = RunDirectory.open(folder / "promptfl" / "seed-0").events.read()
    first = [e["bytes_up"] for e in log if e["event"] == "client" and e["round"] == 1]
    assert len(first) == 2
    promptfl = summary["methods"]["promptfl"]
    assert promptfl["bytes_up_a_round"] == sum(first) > 2 * 2 * 128 * 4
    assert promptfl["bytes"] == 2 * (promptfl["bytes_up_a_round"] + promptfl["bytes_down_a_round"])
    assert summary["methods"]["local_only"]["bytes"] == 0


def test_the_same_partition_for_all_methods_of_a_seed_and_no_image_encoded_twice(compared):
    plan, folder, _, _ = compared
    encoded = set()
    for seed in plan.seeds:
        tables = {(folder / method / f"seed-{seed}" / "partition.json").read_bytes() for method in plan.methods}
        assert len(tables) == 1
    for method, seed in plan.runs:
        log = RunDirectory.open(folder / method / f"seed-{seed}").events.read()
        images = sum(e["image_encoder_calls"] for e in log if e["event"] == "features")
        encoded.add((method, images > 0))
        assert {e["stage"] for e in log if "stage" in e} == {method}, "no baseline inside another method's run"
    assert {method for method, some in encoded if some} <= {"zero_shot"}, "the first one of a seed fills the cache"


def test_progress_counts_runs_and_guesses_the_time_left(compared):
    plan, _, _, heard = compared
    assert [(number, total) for number, total, _, _ in heard.begun] == [(k + 1, 6) for k in range(6)]
    assert [what for _, _, what, _ in heard.begun] == [f"{method}, seed {seed}" for method, seed in plan.runs]
    assert heard.begun[0][3] is None
    assert all(left > 0 for *_, left in heard.begun[1:])
    assert len(heard.ended) == 6


def test_each_run_has_a_record_of_its_own(compared):
    plan, folder, _, _ = compared
    for method, seed in plan.runs:
        lines = (folder / method / f"seed-{seed}" / "observed.jsonl").read_text().splitlines()
        about = json.loads(lines[0])
        assert about["run"] == f"{folder.name}-{method}-seed-{seed}"
        assert json.loads(lines[-1])["state"] == "finished"


def test_a_second_time_everything_is_kept_also_in_another_place(compared, make_plan):
    plan, folder, summary, _ = compared
    elsewhere = make_plan(["promptfl"], 2, client_seconds=600.0, threads=1, device="auto")
    for again in (plan, elsewhere):
        before, heard = events(folder), Heard()
        assert Comparison(again, folder, heard).execute()["methods"] == summary["methods"]
        assert events(folder) == before
        assert heard.begun == []


def test_other_options_in_the_same_folder_are_refused(compared, make_plan):
    _, folder, _, _ = compared
    with pytest.raises(RunError, match=r"rounds 2 instead of 3.*another --out"):
        Comparison(make_plan(["promptfl"], 2, rounds=3), folder).execute()


@pytest.mark.slow
def test_interrupted_anywhere_it_ends_with_the_same_figures(compared, make_plan, tmp_path):
    plan, _, summary, _ = compared
    stops = 0
    for patience in (3, 7, 12):
        asked = iter([False] * patience)
        with pytest.raises(Interrupted):
            Comparison(plan, tmp_path, should_stop=lambda asked=asked: next(asked, True)).execute()
        stops += 1
    unfinished = Comparison(plan, tmp_path).summary()
    assert len(unfinished["methods"]["promptfl"]["runs"]) < 2
    again = Comparison(make_plan(["promptfl"], 2, client_seconds=600.0), tmp_path).execute()
    assert stops == 3
    assert RunDirectory.open(tmp_path / "promptfl" / "seed-1").config.client_seconds == 600
    for name, method in summary["methods"].items():
        for one, other in zip(method["runs"], again["methods"][name]["runs"], strict=True):
            assert {f: one[f] for f in FIGURES} == {f: other[f] for f in FIGURES}


def test_the_search_chooses_by_validation_and_never_scores_a_test_image(make_plan, tmp_path):
    plan = make_plan(["promptfl"], 1, grid={"lr": (1e-9, 0.3)})
    summary = Comparison(plan, tmp_path).execute()
    found = summary["search"]["promptfl"]
    assert [trial["values"]["lr"] for trial in found["tried"]] == [1e-9, 0.3]
    best = max(found["tried"], key=lambda trial: trial["hm"])
    assert found["chosen"] == best["values"]
    assert "zero_shot" not in summary["search"]
    for trial in found["tried"]:
        run = RunDirectory.open(tmp_path / "search" / "promptfl" / f"lr={trial['values']['lr']}")
        assert run.read_metrics() is None
        assert {e["event"] for e in run.events.read()}.isdisjoint({"evaluation", "run_end"})
        assert run.config.partition_seed == 1000
    assert summary["methods"]["promptfl"]["options"]["lr"] == found["chosen"]["lr"]
    assert summary["methods"]["promptfl"]["tuned"] == found["chosen"]
    before = events(tmp_path)
    assert Comparison(plan, tmp_path).execute() == summary
    assert events(tmp_path) == before


def test_a_method_that_does_not_fit_is_left_out_and_the_rest_goes_on(make_plan, tmp_path, monkeypatch):
    monkeypatch.setattr(METHODS["promptfl"], "requires", frozenset({"mind reading"}))
    heard = Heard()
    summary = Comparison(make_plan(["promptfl"], 2), tmp_path, heard).execute()
    assert "mind reading" in summary["methods"]["promptfl"]["left_out"]
    assert summary["methods"]["promptfl"]["runs"] == []
    assert [len(summary["methods"][name]["runs"]) for name in ("zero_shot", "local_only")] == [2, 2]
    assert sum("mind reading" in note for note in heard.notes) == 1


@pytest.mark.parametrize("fault", [ValueError("bad [shape]"), KeyError("ctx"), ZeroDivisionError("division by zero")])
def test_a_method_whose_code_fails_is_a_named_failure_in_its_row(make_plan, tmp_path, monkeypatch, fault):
    def fail(self, jobs):
        raise fault

    monkeypatch.setattr(METHODS["promptfl"], "train_many", fail)
    summary = Comparison(make_plan(["promptfl"], 1), tmp_path).execute()
    why = summary["methods"]["promptfl"]["left_out"]
    assert why.startswith("failed: ")
    assert type(fault).__name__ in why
    assert [len(summary["methods"][name]["runs"]) for name in ("zero_shot", "local_only")] == [1, 1]
    accuracy = sections(summary)[0]
    [row] = [row for row in accuracy["rows"] if row[0] == "promptfl"]
    assert set(row[2]) == {"-"}
    assert accuracy["notes"]["promptfl"] == why


def test_a_method_that_diverges_is_left_out_and_the_rest_goes_on(make_plan, tmp_path, monkeypatch):
    def diverge(self, jobs):
        raise TrainingError("the loss is nan")

    monkeypatch.setattr(METHODS["promptfl"], "train_many", diverge)
    summary = Comparison(make_plan(["promptfl"], 1), tmp_path).execute()
    assert summary["methods"]["promptfl"]["left_out"].startswith("failed: ")
    assert len(summary["methods"]["local_only"]["runs"]) == 1


def test_data_that_cannot_be_dealt_end_it_all(make_plan, tmp_path):
    with pytest.raises((RunError, DataError), match="clients"):
        Comparison(make_plan(["promptfl"], 1, clients=50), tmp_path).execute()
    assert not list(tmp_path.glob("**/config.yaml"))


def test_the_task_and_the_features_are_shared_between_methods(make_plan):
    plan = make_plan(["promptfl"], 2)
    first = Experiment.build(plan.config("zero_shot", 0))
    same, other = (Experiment.build(plan.config("promptfl", seed), like=first) for seed in (0, 1))
    assert same.task is first.task
    assert other.task is not first.task
    assert same.setup.features is other.setup.features is first.setup.features
    assert same.setup.agreeing(seed=0) == first.setup.agreeing(seed=0)


@pytest.mark.slow
def test_local_only_of_other_models_is_the_first_method_without_a_federation(tmp_path):
    plan = Plan.make(build_config({"task": "forecast", "rounds": 1}), ["affine_output", "metepfl", "local_only"], 1)
    assert (plan.alone, "local_only" in plan.methods) == ("metepfl", False)
    summary = Comparison(plan, tmp_path / "compared").execute()
    row = summary["methods"]["local_only"]["runs"][0]
    run = RunDirectory.create(tmp_path / "run", plan.config("metepfl", 0), label="")
    alone = Training(Experiment.build(run.config), run).execute()
    assert {name: row[name] for name in FIGURES} == {name: alone["local_only"][name] for name in FIGURES}
    assert row["bytes"] == 0
    assert list(summary["methods"])[-2:] == ["local_only", "metepfl"]
    assert "local-only: MetePFL of each client by itself, in the same runs" in summary["notes"]
    assert Comparison(plan, tmp_path / "compared").execute()["methods"]["local_only"]["runs"][0]["base"] == row["base"]


@pytest.mark.slow
def test_local_only_promises_nothing_where_the_method_is_private(tmp_path):
    private = {"dp": "client", "noise": 2.0}
    plan = Plan.make(build_config({"task": "forecast", "rounds": 1, "privacy_options": private}), ["metepfl"], 1)
    methods = Comparison(plan, tmp_path).execute()["methods"]
    assert methods["metepfl"]["privacy"]["unit"].startswith("one client")
    assert "privacy" not in methods["local_only"]
