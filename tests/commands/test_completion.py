"""What shells complete: the table is that of the registries, nothing heavy is loaded, and each shell gets its form."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from promptfed.cli import app
from promptfed.commands.completion import completions, runs_like
from promptfed.commands.completion_data import FILE, completion_data, entry_names, known_names
from promptfed.commands.completion_table import as_text, completion_table
from promptfed.commands.help_page import build_command


def words(line: str) -> list[str]:
    """What the shell offers behind ``promptfed`` and ``line``."""
    return [text for text, _ in completions(line.split(" "))]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate(("old", "new")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
        os.utime(tmp_path / "runs" / name, (age, age))
    monkeypatch.chdir(tmp_path)


def test_the_table_is_what_the_commands_and_registries_say():
    said = "run python scripts/make_configuration_page.py"
    assert as_text(completion_table(build_command(app))) == FILE.read_text(encoding="utf-8"), said


def test_names_of_installed_packages_are_those_of_their_entry_points():
    for group in {f"promptfed.{kind}" for kind in ("methods", "tasks", "models")} | {"console_scripts"}:
        assert entry_names(group) == set(entry_points(group=group).names)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("tra", ["train"]),
        ("flower ", ["init"]),
        ("train --method fedt", ["fedtextgrad", "fedtpg"]),
        ("train --method=fedtp", ["--method=fedtpg"]),
        ("train --aggregator trim", ["trimmed_mean"]),
        ("train --engine ", ["local", "ray"]),
        ("train --partition d", ["dirichlet", "domain"]),
        ("train --backbone ti", ["tiny"]),
        ("train --oracle g", ["gemma"]),
        ("train --task blackbox-", ["blackbox-text", "blackbox-vision"]),
        ("train --precision i", ["int8", "int4"]),
        ("train --quo", ["--quorum"]),
        ("compare --methods promptfl,fedtp", ["promptfl,fedtpg"]),
        ("compare --methods fedtpg,fedtp", []),
        ("list agg", ["aggregators"]),
        ("list aggregators trim", ["trimmed_mean"]),
        ("train --set method.l", ["method.lr=", "method.loss="]),
        ("train --method fedbpt --task blackbox-text --set method.loss=h", ["method.loss=hinge"]),
        ("train --set privacy.dp=", ["privacy.dp=none", "privacy.dp=client", "privacy.dp=example"]),
        ("train --set task=blackbox-t", ["task=blackbox-text"]),
        ("train --set attack.name=al --set quor", ["quorum=", "quorum=0.5"]),
        ("predict bundle ", []),
        ("train --run ", []),
        ("nosuch ", []),
    ],
)
def test_what_may_follow(line: str, offered: list[str]):
    found = words(line)
    assert set(offered) <= set(found) if line.endswith("method.l") else found == offered


def test_flags_that_are_seldom_typed_come_with_their_first_letter():
    assert "--rounds" in words("train --")
    assert "--quorum" not in words("train --")
    assert "--quorum" in words("train --q")
    assert "--rounds" not in words("train --rounds 3 --")
    assert "--set" in words("train --set rounds=3 --")


def test_runs_are_named_newest_first(runs: None, tmp_path: Path):
    assert words("report ") == words("train --resume ") == ["runs/new", "runs/old"]
    assert words("export runs/o") == ["runs/old"]
    assert runs_like(f"{tmp_path}/runs/n") == [f"{tmp_path}/runs/new", f"{tmp_path}/runs/old"]
    assert runs_like("/no/such/place/x") == []


def ask(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-P", "-m", "promptfed"]
    return subprocess.run(call, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("typed", "place", "offered"),
    [
        (["promptfed", "train", "--engine", ""], 3, ["local", "ray"]),
        (["promptfed", "train", "--engine"], 3, ["local", "ray"]),
        (["promptfed", "train", "--engine", "=", "r"], 4, ["ray"]),
        (["promptfed", "train", "--backbone", "lm", ":", "g"], 5, ["gemma"]),
        (["promptfed", "train", "--set", "privacy.dp", "="], 4, ["none", "client", "example"]),
        (["promptfed", "train", "--engine", "'lo"], 3, ["local"]),
    ],
)
def test_bash_splits_at_signs_that_belong_to_a_word(typed: list[str], place: int, offered: list[str]):
    said = ask({"_PROMPTFED_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(typed), "COMP_CWORD": str(place)})
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.split() == offered


def test_the_other_shells_get_their_own_form():
    line = {"_TYPER_COMPLETE_ARGS": "promptfed train --eng"}
    assert ask({"_PROMPTFED_COMPLETE": "complete_zsh", **line}).stdout.startswith('_arguments \'*: :(("--engine":"')
    fish = {"_PROMPTFED_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args", **line}
    assert ask(fish).stdout.startswith("--engine\tWhere clients' work runs")
    assert ask({**fish, "_TYPER_COMPLETE_FISH_ACTION": "is-args"}).returncode == 0
    nothing = {**fish, "_TYPER_COMPLETE_FISH_ACTION": "is-args", "_TYPER_COMPLETE_ARGS": "promptfed train --run "}
    assert ask(nothing).returncode == 1
    assert ask({**nothing, "_PROMPTFED_COMPLETE": "complete_zsh"}).stdout == "_files\n"
    assert ask({"_PROMPTFED_COMPLETE": "complete_powershell", **line}).stdout.startswith("--engine:::Where")


def test_an_answer_loads_nothing_heavy():
    code = (
        "import sys, promptfed.commands.completion as c; c.completions(['train', '--method', 'f']);"
        "print([m for m in ('torch', 'typer', 'pydantic', 'yaml', 'click', 'importlib.metadata') if m in sys.modules])"
    )
    call = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"]
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_closed_choice_is_known():
    assert {"promptfl", "fedbpt"} <= set(known_names("methods"))
    flags = completion_data()["commands"]["train"]["flags"]
    choices = {"--task", "--method", "--backbone", "--oracle", "--partition", "--aggregator", "--engine", "--device"}
    assert all(flags[flag][0].startswith("names:") for flag in choices)
    assert flags["--observer"][0] == "names:observers"
    assert flags["--baselines"][0] == (
        "one:random_allocation|preferred_allocation|lowest_allocation|expert_allocation|trajectory_prompt|"
        "persistence|yesterday|affine_output|zero_shot|description_words|majority_answer|question_only|local_only"
    )
