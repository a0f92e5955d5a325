from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["train"],
        ["compare"],
        ["eval"],
        ["predict"],
        ["export"],
        ["personalize"],
        ["onboard"],
        ["list"],
        ["report"],
        ["words"],
        ["tasks", "show"],
        ["privacy", "plan"],
    ],
)
def test_help_teaches_by_example(promptfed, words):
    said = promptfed(*words, "--help")
    assert said.code == 0
    assert "Example" in said.out
    assert f"promptfed {' '.join(words)}".strip() in said.out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["export"], "RUN A run's folder. [required]"),
        (["predict"], "[EXAMPLE...] Image files, folders, patterns"),
        (["predict"], "How many classes to name. [default: 3]"),
        (["flower", "init"], "DIR New folder for the app."),
        (["list"], "[KIND] One of: methods"),
        (["import", "fedtpg"], "[required]"),
    ],
)
def test_arguments_say_what_they_are(promptfed, monkeypatch, words, text):
    """typer 0.20 under a newer click loses these texts and escapes the brackets."""
    monkeypatch.setenv("COLUMNS", "100")
    page = promptfed(*words, "--help").out
    assert " ".join(page.split()).count(text) == 1
    assert "\\[" not in page
    assert "Positional" not in page


@pytest.mark.parametrize("typo", ["tran", "exprt", "predct"])
def test_the_nearest_command_is_named_once(promptfed, typo):
    said = promptfed(typo)
    assert said.code == 2
    assert said.err.count("Did you mean") == 1


def test_no_arguments_show_the_help(promptfed):
    said = promptfed()
    assert said.code == 0
    assert "Commands" in said.out


def test_version(promptfed):
    import promptfed as package

    assert promptfed("--version").out == f"promptfed {package.__version__}\n"


def test_shell_completion_knows_commands_and_values():
    environment = {**os.environ, "_PROMPTFED_COMPLETE": "complete_bash"}

    def complete(line: str) -> list[str]:
        words = {**environment, "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        call = [sys.executable, "-P", "-m", "promptfed.cli"]
        return subprocess.run(call, env=words, capture_output=True, text=True, check=False).stdout.split()

    assert "train" in complete("promptfed tr")
    assert "promptfl" in complete("promptfed train --method pro")
