from __future__ import annotations

import json
import os
import shutil
import time

import pytest
from filelock import FileLock


def test_list_methods_shows_options_and_papers(promptfed):
    said = promptfed("list", "methods", "--json")
    rows = json.loads(said.out)
    assert {"promptfl", "local_only", "zero_shot"} <= set(rows)
    assert rows["promptfl"]["options"]["n_ctx"] == 16
    assert "2208.11625" in rows["promptfl"]["paper"]


@pytest.mark.parametrize("kind", ["methods", "backbones", "tasks", "aggregators"])
def test_every_list_prints_a_table(promptfed, kind):
    from promptfed.commands.listing import known

    said = promptfed("list", kind)
    assert said.code == 0
    for name in known(kind):
        assert name.split(":")[0] in said.out


def test_backbones_end_with_a_tally_of_text_towers(promptfed):
    from promptfed.backbones.text_tower_kinds import installed_configs, tally

    kinds, said = tally(), promptfed("list", "backbones").out
    promptable = sum(len(names) for kind, names in kinds.items() if not kind.refusal)
    assert promptable >= 131
    assert f"{promptable} of {len(installed_configs())} architectures can be prompted" in said
    assert "12 times at 77 positions" in " ".join(said.split())
    rows = json.loads(promptfed("list", "backbones", "--json").out)
    assert "MobileCLIP-S1" in rows["open_clip:MODEL/WEIGHTS"]["whole"]
    assert "coca_ViT-B-32" in rows["open_clip:MODEL/WEIGHTS"]["class-token (refused)"]
    assert "causal" not in rows["tiny"]


def test_methods_say_what_is_trained_sent_kept_and_needed(promptfed):
    said = promptfed("list", "methods", "--bytes", "--json")
    rows = json.loads(said.out)
    promptfl, local_only = rows["promptfl"], rows["local_only"]
    assert promptfl["bytes_up"] == promptfl["bytes_down"] > 16 * 128 * 4
    assert (local_only["bytes_up"], local_only["bytes_down"]) == (0, 0)
    assert "context" in promptfl["trains"]
    assert [rows[name]["needs"] for name in ("promptfl", "fedprompt", "fedbpt", "zero_shot")] == [
        *("dual encoder", "language model", "black box", "any model")
    ]
    assert rows["fedprompt"]["bytes_up"] > 10 * 384 * 4  # MiniLM's width
    assert "images" in promptfl["keeps"]
    assert promptfl["requires"] == []
    assert promptfl["aggregator"] == "mean"


@pytest.mark.parametrize(
    ("words", "counts"),
    [
        ([], False),
        (["promptfl"], True),
        (["promptfl", "--no-bytes"], False),
        (["promptfl", "--task", "clip-fewshot"], True),
    ],
)
def test_bytes_are_counted_where_one_is_named_or_they_are_asked_for(promptfed, words, counts):
    rows = json.loads(promptfed("list", "methods", *words, "--json").out)
    assert ("bytes_up" in rows["promptfl"]) == counts


def test_a_method_that_does_not_fit_the_backbone_is_listed_with_the_reason(promptfed, monkeypatch):
    from promptfed.method import METHODS

    monkeypatch.setattr(METHODS["promptfl"], "requires", frozenset({"mind reading"}))
    rows = json.loads(promptfed("list", "methods", "promptfl", "--json").out)
    assert rows["promptfl"]["bytes_up"] is None
    assert "mind reading" in rows["promptfl"]["unfit"]


@pytest.mark.parametrize("columns", ["80", "100"])
def test_each_method_has_one_line_that_is_never_cut(promptfed, monkeypatch, columns):
    from promptfed.method import METHODS

    monkeypatch.setenv("COLUMNS", columns)
    lines = promptfed("list", "methods").out.splitlines()
    for name in METHODS:
        assert sum(line.startswith(f"{name} ") for line in lines) == 1, name
    assert len(lines) == len(list(METHODS)) + 2
    assert max(map(len, lines)) <= int(columns)
    assert "…" not in "".join(lines)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("methods", "fedprox", ["arXiv 1812.06127", "mu=0.5", "--set method.NAME=VALUE", "context (n_ctx, dim)"]),
        ("aggregators", "trimmed_mean", ["trim=", "--set aggregator.NAME=VALUE"]),
        ("tasks", "clip-domains", ["held_out=none", "--set task.NAME=VALUE"]),
        ("backbones", "tiny", ["tiny"]),
    ],
)
def test_a_name_shows_all_about_one(promptfed, monkeypatch, kind, name, words):
    monkeypatch.setenv("COLUMNS", "80")
    said = promptfed("list", kind, name, "--no-bytes")
    assert said.code == 0, said.err
    for text in words:
        assert text in " ".join(said.out.split()), text
    assert max(map(len, said.out.splitlines())) <= 80


@pytest.mark.parametrize(("kind", "name", "near"), [("methods", "fedtgp", "fedtpg"), ("aggregators", "krom", "krum")])
def test_an_unknown_name_is_refused_with_the_nearest(promptfed, kind, name, near):
    said = promptfed("list", kind, name)
    assert said.code == 2
    assert f"Did you mean '{near}'?" in said.err


def test_brackets_are_shown(promptfed):
    assert "promptfed[lit]" in "".join(promptfed("list", "backbones").out.replace("│", "").split())


def test_list_runs_reads_their_figures(promptfed, finished):
    said = promptfed("list", "runs", "--runs", finished.parent, "--json")
    row = json.loads(said.out)[str(finished)]
    assert row["base"] == json.loads((finished / "metrics.json").read_text())["method"]["base"]


def test_runs_fit_80_columns_newest_first_in_percent(promptfed, finished, tmp_path, monkeypatch):
    """Copies of one run: a day old, an hour old and unfinished, damaged, with a long name and one that is markup."""
    names = {"20261128-091500-clip-fewshot-promptfl": 90000, "[bold]run": 60, "un": 7200, "broken": 10}
    now = time.time()
    for name, age in names.items():
        shutil.copytree(finished, tmp_path / name)
        if name == "un":
            (tmp_path / name / "metrics.json").unlink()
        if name == "broken":
            (tmp_path / name / "config.yaml").write_text("rounds: -3\n")
        for path in (tmp_path / name).iterdir():
            os.utime(path, (now - age, now - age))
    monkeypatch.setenv("COLUMNS", "60")
    narrow = promptfed("list", "runs", "--runs", tmp_path).out.splitlines()
    assert max(map(len, narrow)) <= 60
    assert narrow[0].split() == ["run", "status", "base", "HM", "age"]
    assert [line.split()[-1] for line in narrow[1:4]] == ["s", "min", "h"]
    monkeypatch.setenv("COLUMNS", "80")
    lines = promptfed("list", "runs", "--runs", tmp_path).out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:5]] == ["broken", "[bold]run", "un", next(iter(names))]
    base = json.loads((finished / "metrics.json").read_text())["method"]["base"]
    assert f" {100 * base:.1f} " in lines[2]
    assert lines[2].split()[1:2] == ["finished"]
    assert lines[2].rstrip().endswith("1 min")
    assert " stopped 2/2 " in lines[3]
    with FileLock(tmp_path / "un" / ".lock"):
        rows = json.loads(promptfed("list", "runs", "--runs", tmp_path, "--json").out)
    statuses = {row["name"]: row["status"] for row in rows.values()}
    assert (statuses["un"], statuses["broken"], statuses["[bold]run"]) == ("running", "damaged", "finished")
    assert lines[3].rstrip().endswith("2 h")
    assert lines[4].rstrip().endswith("1 d")
    assert any("broken is damaged" in line and "rounds" in line for line in lines[5:])


def test_runs_show_method_and_data_where_there_is_room(promptfed, finished, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    out = promptfed("list", "runs", "--runs", finished.parent).out
    assert "promptfl" in out
    assert "folder:" in out


def test_models_is_another_name_of_backbones(promptfed):
    assert promptfed("list", "models").out == promptfed("list", "backbones").out


def test_sources_of_texts_are_those_that_the_task_reads(promptfed):
    from promptfed.commands.listing import TEXT_SOURCES
    from promptfed.tasks.blackbox_text import KINDS

    rows = json.loads(promptfed("list", "sources", "--json").out)
    assert {form.partition(":")[0] for form in TEXT_SOURCES} | {"hf"} == set(KINDS)
    assert set(TEXT_SOURCES) <= set(rows)


def test_a_source_is_named_without_its_argument(promptfed):
    assert list(json.loads(promptfed("list", "sources", "folder", "--json").out)) == ["folder:PATH"]
    assert "Did you mean 'folder:PATH'" in promptfed("list", "sources", "foldr:PATH").err


def test_an_unknown_group_of_options_lists_each_name_once(promptfed):
    names = promptfed("list", "options", "zzz").err.partition("Known: ")[2].rstrip(".\n").split(", ")
    assert "fedamp" in names
    assert len(names) == len(set(names))
