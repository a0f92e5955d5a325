"""Completion as it is typed: a shell in a terminal of its own, with what ``--install-completion`` wrote."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pty = pytest.importorskip("pty")  # not on Windows
pytestmark = pytest.mark.slow
STARTS = {"bash": ["bash", "-i"], "zsh": ["zsh", "-i"]}
PROMPT = "READY> "
PATIENCE = 60.0
"""Seconds for an answer; a busy machine needs them."""


class Terminal:
    """An interactive shell and what it shows."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.pid, self._file = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe(command[0], command, environment)

    def expect(self, words: str) -> str:
        """Return what is shown until ``words`` are."""
        shown, end = "", time.monotonic() + PATIENCE
        while words not in shown:
            left = end - time.monotonic()
            assert left > 0, f"no {words!r} in {shown!r}"
            if select.select([self._file], [], [], left)[0]:
                shown += re.sub(
                    r"\x1b\[[0-9;?]*[a-zA-Z]|[\x07\x08]", "", os.read(self._file, 4096).decode("utf-8", "replace")
                )
        return shown

    def type(self, keys: str) -> None:
        os.write(self._file, keys.encode())

    def close(self) -> None:
        os.close(self._file)
        os.waitpid(self.pid, 0)


@pytest.fixture(params=STARTS)
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    """A shell whose user has installed completion, in a folder with one run."""
    shell = request.param
    program = Path(sys.executable).with_name("promptfed")
    if shutil.which(shell) is None or not program.is_file():
        pytest.skip(f"no {shell}, or promptfed is not installed")
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": path, "TERM": "dumb"}
    environment.pop("ZDOTDIR", None)
    (tmp_path / "runs" / "wards").mkdir(parents=True)
    (tmp_path / "runs" / "wards" / "config.yaml").touch()
    # The shell is not the last command, so it stays the parent that typer looks for.
    install = [shell, "-c", "promptfed --install-completion; true"]
    done = subprocess.run(install, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert f"{shell} completion installed" in done.stdout, done.stdout + done.stderr
    with (tmp_path / f".{shell}rc").open("a") as file:
        file.write(f"\nPS1='{PROMPT}'\n")
    typing = Terminal(STARTS[shell], environment, tmp_path)
    yield typing
    typing.close()


def test_one_tab_ends_the_word_and_two_list_choices(terminal: Terminal) -> None:
    terminal.expect(PROMPT)
    for typed, whole in (
        ("tr", "train"),  # the first Tab of a session, at which zsh reads the script
        ("train --aggr", "train --aggregator"),
        ("train --method fedtp", "train --method fedtpg"),
        ("list aggre", "list aggregators"),
        ("report runs/w", "report runs/wards"),
    ):
        terminal.type(f"promptfed {typed}\t")
        terminal.expect(f"promptfed {whole}")
        terminal.type("\x15")  # Ctrl-U: an empty line again
    terminal.type("promptfed train --engine \t\t")
    assert "local" in terminal.expect("ray")
