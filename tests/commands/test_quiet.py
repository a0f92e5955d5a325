"""Every command has --quiet and --json for scripts: one prints a value a line, the other JSON and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from PIL import Image

from promptfed.cli import app


def commands(command, *names):
    """The words of every command below ``command``, and its flags."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from commands(inner, *names, name)
    else:
        yield " ".join(names), {flag for parameter in command.params for flag in parameter.opts}


def test_every_command_has_both():
    flags = dict(commands(typer.main.get_command(app)))
    assert len(flags) > 15
    assert [name for name, has in flags.items() if not {"--quiet", "-q", "--json"} <= has] == []


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ["list", "backbones"],
            [
                "clip-hf:FOLDER",
                "dt",
                "fracast",
                "lit",
                "lm:FOLDER",
                "lm:gemma",
                "lm:minilm",
                "open_clip:MODEL/",
                "tiny",
                "tst",
            ],
        ),
        (["list", "options", "fedprox"], None),
        (["tasks", "show", "--clients", "2"], ["0\tclient 0\t", "1\tclient 1\t"]),
    ],
)
def test_names_come_one_a_line(promptfed, words, lines):
    said = promptfed(*words, "--quiet")
    assert (said.code, said.err) == (0, "")
    shown = said.out.splitlines()
    assert all(" " not in line.replace("client ", "") for line in shown)
    if lines is not None:
        assert len(shown) == len(lines)
        assert all(any(line.startswith(wanted) for line in shown) for wanted in lines)


def test_what_is_done_with_a_run_prints_what_a_script_needs(promptfed, finished: Path, tmp_path: Path):
    metrics = json.loads((finished / "metrics.json").read_text())["method"]
    said = promptfed("eval", finished, "--quiet")
    assert said.err == ""
    figures = ["-" if metrics[key] is None else f"{100 * metrics[key]:.1f}" for key in ("local", "base", "new", "hm")]
    [name, *shown] = said.out.rstrip("\n").split("\t")
    assert name.startswith("folder:")
    assert shown == figures
    said = promptfed("export", finished, "--client", 0, "--out", tmp_path / "bundle", "--quiet")
    assert said[1:] == (f"{tmp_path / 'bundle'}\n", "")
    Image.new("RGB", (16, 16), (40, 180, 215)).save(tmp_path / "a.png")
    said = promptfed("predict", tmp_path / "bundle", tmp_path / "a.png", "--classes", "cat,dog", "--quiet")
    assert said.out in ("cat\n", "dog\n")
    said = promptfed("words", finished, "--count", 2, "-q")
    assert all(len(line.split(" ")) == 2 for line in said.out.splitlines())
    assert promptfed("report", finished, "--quiet").out == f"{finished / 'report.html'}\n"
    assert json.loads(promptfed("report", finished, "--json").out) == {"report": str(finished / "report.html")}


def test_an_app_and_a_check_of_a_site(promptfed, tmp_path: Path):
    pytest.importorskip("flwr")
    assert promptfed("flower", "init", tmp_path / "app", "--clients", 2, "--quiet").out == f"{tmp_path / 'app'}\n"
    said = promptfed("flower", "init", tmp_path / "other", "--data", "nosuch")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "unknown data source 'nosuch'" in said.err
    assert not (tmp_path / "other").exists()
    words = ("site", "check", "--node-config", f'site="a" data="folder:{tmp_path / "none"}"', "--backbone", "tiny")
    said = promptfed(*words, "--quiet")
    assert said.code == 2
    assert said.out
    assert all(line.startswith("FAIL ") for line in said.out.splitlines())
    checks = json.loads(promptfed(*words, "--json").out)
    assert [check["ok"] for check in checks].count(False) == len(said.out.splitlines())
