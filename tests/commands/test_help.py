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
        ["tasks", "show"],
    ],
)
def test_help_teaches_by_example(promptfed, words):
    said = promptfed(*words, "--help")
    assert said.code == 0
    assert "Example" in said.out
    assert f"promptfed {' '.join(words)}".strip() in said.out


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
