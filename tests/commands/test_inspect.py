from __future__ import annotations

import json

import pytest


def test_list_methods_shows_options_and_papers(promptfed):
    said = promptfed("list", "methods", "--json")
    rows = json.loads(said.out)
    assert {"promptfl", "local_only", "zero_shot"} <= set(rows)
    assert rows["promptfl"]["options"]["n_ctx"] == 16
    assert "2208.11625" in rows["promptfl"]["paper"]


@pytest.mark.parametrize("kind", ["methods", "backbones", "tasks", "aggregators"])
def test_every_list_prints_a_table(promptfed, kind):
    from promptfed.commands.inspect import known

    said = promptfed("list", kind)
    assert said.code == 0
    for name in known(kind):
        assert name.split(":")[0] in said.out


def test_methods_say_what_is_trained_sent_kept_and_needed(promptfed):
    said = promptfed("list", "methods", "--json")
    rows = json.loads(said.out)
    promptfl, local_only = rows["promptfl"], rows["local_only"]
    assert promptfl["bytes_up"] == promptfl["bytes_down"] > 16 * 128 * 4
    assert (local_only["bytes_up"], local_only["bytes_down"]) == (0, 0)
    assert "context" in promptfl["trains"]
    assert "images" in promptfl["keeps"]
    assert promptfl["requires"] == []
    assert promptfl["aggregator"] == "mean"
    quick = json.loads(promptfed("list", "methods", "--no-bytes", "--json").out)
    assert "bytes_up" not in quick["promptfl"]


def test_a_method_that_does_not_fit_the_backbone_is_listed_with_the_reason(promptfed, monkeypatch):
    from promptfed.methods.base import METHODS

    monkeypatch.setattr(METHODS["promptfl"], "requires", frozenset({"mind reading"}))
    rows = json.loads(promptfed("list", "methods", "--json").out)
    assert rows["promptfl"]["bytes_up"] is None
    assert "mind reading" in rows["promptfl"]["unfit"]


def test_names_of_methods_are_never_cut(promptfed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    said = promptfed("list", "methods", "--no-bytes")
    lines = said.out.splitlines()
    from promptfed.methods.base import METHODS

    for name in METHODS:
        assert any(line.strip("│ ").startswith(f"{name} ") for line in lines), name
    assert max(map(len, lines)) <= 100
    assert "…" not in said.out


def test_brackets_are_shown(promptfed):
    assert "promptfed[lit]" in "".join(promptfed("list", "backbones").out.replace("│", "").split())


def test_list_runs_reads_their_figures(promptfed, finished):
    said = promptfed("list", "runs", "--runs", finished.parent, "--json")
    row = json.loads(said.out)[str(finished)]
    assert row["base"] == json.loads((finished / "metrics.json").read_text())["method"]["base"]


def test_report_is_written_again(promptfed, finished):
    before = (finished / "report.html").read_bytes()
    said = promptfed("report", finished)
    assert said.code == 0
    assert said.out.strip() == str(finished / "report.html")
    assert (finished / "report.html").read_bytes() == before


def test_tasks_show_says_who_holds_what(promptfed, small, tmp_path):
    words = list(small)
    at = words.index("--rounds")
    del words[at : at + 2]
    said = promptfed("tasks", "show", *words, "--plot", tmp_path / "who.png", "--json")
    assert said.code == 0, said.err
    table = json.loads(said.out)
    assert [sum(c["train"]) for c in table["clients"]] == [4, 4, 4]
    assert (tmp_path / "who.png").read_bytes().startswith(b"\x89PNG")
    assert "6 base classes" in promptfed("tasks", "show", *words).out
