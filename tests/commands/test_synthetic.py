"""`promptfed synthetic`: every figure of a small run, and what is refused."""

from __future__ import annotations

import json

import pytest

WORDS = ("--task", "text-classification", "--clients", "3", "--shots", "2", "--rounds", "2", "--baselines", "none")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from promptfed.cli import main

    folder = tmp_path_factory.mktemp("synthetic") / "run"
    method = ("--method", "private_evolution", "--set", "method.texts=4", "--set", "method.keep=2")
    with pytest.raises(SystemExit) as ended:
        main(["train", *WORDS, *method, "--quiet", "--threads", "1", "--run", str(folder)])
    assert ended.value.code == 0
    return folder


def test_a_report_has_every_figure_and_leaves_the_run_alone(promptfed, run):
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    said = promptfed("synthetic", run, "--rounds", 1, "--canaries", 3, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert all(0 <= found["accuracy"][key] <= 1 for key in ("zero_shot", "synthetic", "local", "pooled"))
    assert found["accuracy"]["synthetic_texts"] == found["texts"]
    assert found["nearness"]["quoting"] == 0
    assert found["privacy"]["epsilon"] is None
    canaries = found["canaries"]
    assert (canaries["planted"], canaries["quoting"], canaries["trained"]["members"]) == (3, 0, 3)
    assert canaries["trained"]["others"] == canaries["references"]
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before


def test_it_prints_a_table_or_a_line_a_figure(promptfed, run):
    said = promptfed("synthetic", run, "--rounds", 1, "--canaries", 0, "--quiet")
    assert (said.code, said.err) == (0, "")
    rows = [line.split("\t") for line in said.out.splitlines()]
    assert all(len(row) == 2 for row in rows)
    assert rows[0][0] == "zero-shot"
    assert rows[-1] == ["epsilon", "none: the run promises nothing"]


def test_a_run_that_writes_no_texts_is_one_line(promptfed, tmp_path):
    made = promptfed("train", *WORDS, "--rounds", "1", "--quiet", "--run", tmp_path / "run")
    assert made.code == 0, made.err
    said = promptfed("synthetic", tmp_path / "run")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "'fedprompt' makes none" in said.err or "makes none: use it on a run of" in said.err
