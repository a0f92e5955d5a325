from __future__ import annotations

import json

import pytest

from promptfed.attack_audit import AUDITS
from promptfed.attacks.base import ATTACKS
from promptfed.cli import main


def said(capsys, *words: object) -> str:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    assert left.value.code in (0, None)
    return capsys.readouterr().out


def test_the_list_names_all_and_what_they_know(capsys):
    rows = json.loads(said(capsys, "attack", "list", "--json"))
    assert set(rows["attacks"]) == set(ATTACKS)
    assert set(rows["audits"]) == set(AUDITS)
    assert rows["attacks"]["alie"]["knows"] == "this round"
    assert said(capsys, "attack", "list", "--quiet").split() == [*ATTACKS, *AUDITS]


@pytest.mark.slow
def test_an_attacked_run_says_so_and_is_audited(capsys, tmp_path):
    run = str(tmp_path / "run")
    small = ["--clients", "4", "--rounds", "2", "--shots", "2", "--set", "method.n_ctx=2", "--baselines", "none"]
    said(capsys, "train", *small, "--run", run, "--set", "attack.name=freerider", "--set", "attack.how=replay", "-q")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["attack"]["name"] == "freerider"
    assert len(metrics["attack"]["malicious"]) == 1
    assert metrics["notes"][0].startswith("attack freerider (a simulation): 1 of 4 clients are malicious")
    assert "Attack freerider (a simulation)" in (tmp_path / "run" / "report.html").read_text()
    found = json.loads(said(capsys, "attack", "run", run, "--json"))
    assert set(found["scores"]) == {"prompt", "update, first round", "update, after the run"}
    assert found["scores"]["prompt"]["trained"]["members"] == found["scores"]["prompt"]["start"]["members"]
    rows = said(capsys, "attack", "run", run, "--attack", "labels", "--quiet").splitlines()
    assert [row.split("\t")[0] for row in rows] == ["first round", "after the run"]


def test_an_unknown_audit_is_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as left:
        main(["attack", "run", str(tmp_path)])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
def test_an_audit_of_a_private_run_adds_its_noise(capsys, tmp_path):
    small = ["--clients", "10", "--rounds", "1", "--shots", "2", "--baselines", "none", "-q"]
    terms = ["--set", "privacy.dp=example", "--set", "privacy.clip=1.0"]
    found = {}
    for noise in ("0", "20"):
        run = str(tmp_path / noise)
        said(capsys, "train", *small, *terms, "--set", f"privacy.noise={noise}", "--run", run)
        found[noise] = json.loads(said(capsys, "attack", "run", run, "--json"))["scores"]["update, first round"]
    assert found["0"]["trained"]["auc_interval"][0] > 0.55
    low, high = found["20"]["trained"]["auc_interval"]
    assert low < 0.5 + 0.05 < high + 0.05


@pytest.mark.slow
def test_an_audit_that_leaves_noise_out_says_so(capsys, tmp_path):
    run = str(tmp_path / "run")
    small = [
        "--clients",
        "2",
        "--rounds",
        "1",
        "--shots",
        "1",
        "--hold-out-classes",
        "0.8",
        "--baselines",
        "none",
        "-q",
    ]
    said(capsys, "train", *small, "--set", "privacy.dp=example", "--set", "privacy.noise=20", "--run", run)
    shown = said(capsys, "attack", "run", run, "--attack", "inversion")
    assert "Note: this run's clients clip each gradient and add noise" in shown


@pytest.mark.slow
def test_compare_takes_attacks_in_place_of_methods(capsys, tmp_path):
    small = ["--clients", 4, "--shots", 2, "--rounds", 1, "--set", "method.n_ctx=2", "--seeds", 1]
    words = ["compare", "--attacks", "zero", "--aggregators", "mean", *small, "--out", tmp_path / "out"]
    first = said(capsys, *words, "--quiet")
    assert [line.split("\t")[:2] for line in first.splitlines()] == [["none", "mean"], ["zero", "mean"]]
    assert "| zero |" in (tmp_path / "out" / "attacks.md").read_text()
    assert said(capsys, *words, "--quiet") == first


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--attacks", "zero", "--methods", "promptfl,kgcoop"], "name one method"),
        (["--methods", "promptfl", "--malicious", "0.2"], "go with --attacks"),
        (["--attacks", "zero", "--malicious", "1"], "below 1"),
        ([], "--methods names none"),
    ],
)
def test_compare_says_what_goes_with_attacks(promptfed, words, why):
    ended = promptfed("compare", *words)
    assert ended.code == 2
    assert why in ended.err
