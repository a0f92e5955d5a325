"""`promptfed synthetic`: every figure of a small run, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from promptfed import synthetic_report
from promptfed.commands.opened import open_run
from promptfed.commands.synthetic import figure_rows
from promptfed.export.finished import FinishedRun
from promptfed.runs.directory import RunDirectory
from promptfed.synthetic_report import SyntheticReport

WORDS = (
    "--task text-classification --method private_evolution --clients 2 --shots 2 --rounds 2 --baselines none --quiet "
    "--threads 1 --set method.texts=3 --set method.keep=2 --set task.val_shots=1 --set task.test_per_class=3"
)
REFERENCES = 20


@pytest.fixture(scope="module", autouse=True)
def few_references():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_report, "REFERENCES", REFERENCES)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    from promptfed.cli import main

    folder = tmp_path_factory.mktemp("synthetic")
    lines = [f"the {'fire' if k % 2 else 'ice'} {k}\t{'hot' if k % 2 else 'cold'}" for k in range(24)]
    (folder / "heat.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    with pytest.raises(SystemExit) as ended:
        main(["train", *WORDS.split(), "--data", f"tsv:{folder / 'heat.tsv'}", "--run", str(folder / "run")])
    assert ended.value.code == 0
    return folder / "run"


@pytest.fixture(scope="module")
def report(run) -> SyntheticReport:
    return SyntheticReport(FinishedRun.load(open_run(run)))


@pytest.fixture(scope="module")
def figures(report):
    return report.all(method="fedprompt", rounds=1, canaries=2, repeat=1)


def test_a_report_has_every_figure(figures):
    assert all(0 <= figures["accuracy"][key] <= 1 for key in ("zero_shot", "synthetic", "local", "pooled"))
    assert figures["accuracy"]["synthetic_texts"] == figures["texts"]
    assert figures["accuracy"]["local_clients"] == 2
    assert figures["nearness"]["quoting"] == 0
    assert figures["privacy"]["epsilon"] is None
    canaries = figures["canaries"]
    assert (canaries["planted"], canaries["quoting"], canaries["trained"]["members"]) == (2, 0, 2)
    assert canaries["trained"]["others"] == canaries["references"] == REFERENCES


def test_it_prints_figures_in_three_ways_and_leaves_the_run_alone(promptfed, run, figures, monkeypatch):
    monkeypatch.setattr(SyntheticReport, "all", lambda self, **options: figures)
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    quiet = promptfed("synthetic", run, "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    rows = [tuple(line.split("\t")) for line in quiet.out.splitlines()]
    assert rows == figure_rows(figures)
    assert rows[0][0] == "zero-shot"
    assert ("epsilon", "none: no differential privacy") in rows
    assert "(of a text, not of a client)" in rows[-1][0], "it is not the epsilon of the account"
    assert json.loads(promptfed("synthetic", run, "--json").out) == figures
    table = promptfed("synthetic", run).out
    assert "Result: no text quotes a canary" in table
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before


def test_canaries_are_trained_for_as_many_rounds_as_the_run_has_finished(report, monkeypatch):
    early = SyntheticReport.__new__(SyntheticReport)
    early.__dict__ |= report.__dict__
    early.finished = replace(report.finished, state=replace(report.finished.state, round=1))
    rounds = []
    monkeypatch.setattr(
        synthetic_report, "_trained", lambda federation, count: rounds.append(count) or federation.start()
    )
    for some_report in (report, early):
        some_report.canaries(1)
    assert rounds == [2, 1]


def test_epsilon_of_a_run_without_a_statement_is_not_known(report, figures, tmp_path):
    killed = SyntheticReport.__new__(SyntheticReport)
    killed.__dict__ |= report.__dict__
    config = report.experiment.config
    killed.finished = replace(report.finished, run=RunDirectory(tmp_path, config))
    words = {}
    for name, terms in {"dp": {"dp": "client", "noise": 1.0}, "sums": {"secure_aggregation": True}}.items():
        options = config.model_copy(update={"privacy_options": terms})
        killed.experiment = replace(report.experiment, config=options)
        words[name] = dict(figure_rows({**figures, "privacy": killed.privacy()}))["epsilon"]
    assert words == {"dp": "not known: go on with the run first", "sums": "none: no differential privacy"}


def test_a_run_that_writes_no_texts_is_one_line(promptfed, finished):
    said = promptfed("synthetic", finished)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "makes none: use it on a run of --method fedpit or private_evolution" in said.err
