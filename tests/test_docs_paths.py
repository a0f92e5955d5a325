"""The pages of docs/guides: every command of a page runs in order, and so does its Python, in one folder.

A block ``console norun`` needs other machines or hours: its commands are not run, but must exist with their options.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from PIL import Image

from promptfed.cli import app, main
from promptfed.commands.help_page import build_command

GUIDES = Path(__file__).parent.parent / "docs" / "guides"
BLOCK = re.compile(r"^```(console norun|console|python(?: file=\S+)?)\n(.*?)^```", re.S | re.M)


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of each block of a page."""
    yield from BLOCK.findall((GUIDES / f"{page}.md").read_text(encoding="utf-8"))


def commands(block: str) -> list[list[str]]:
    """Return the words of each command of a console block."""
    joined = block.replace("\\\n", " ")
    lines = [line[2:].partition(" # ")[0] for line in joined.splitlines() if line.startswith("$ ")]
    return [shlex.split(line) for line in lines]


@pytest.fixture(scope="module")
def command_line() -> click.Command:
    return build_command(app)


@pytest.fixture
def follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], list[str]]:
    """Run a page and return what its commands printed, one text each."""

    def run(page: str) -> list[str]:
        monkeypatch.chdir(tmp_path)
        printed, names = [], {"__name__": "page"}
        for kind, text in blocks(page):
            if kind.startswith("python file="):
                Path(kind.partition("=")[2]).write_text(text, encoding="utf-8")
            elif kind == "python":
                exec(compile(text, f"docs/guides/{page}.md", "exec"), names)
            elif kind == "console":
                for words in commands(text.replace("/var/lib/promptfed", str(tmp_path / "state"))):
                    assert words[0] == "promptfed", words
                    capsys.readouterr()
                    with pytest.raises(SystemExit) as ended:
                        main(words[1:])
                    out, err = capsys.readouterr()
                    assert not ended.value.code, f"{shlex.join(words)}: {err}"
                    printed.append(out)
        return printed

    return run


@pytest.mark.slow
def test_the_researchers_path(follow: Callable[[str], list[str]], tmp_path: Path) -> None:
    follow("researcher")
    table = (tmp_path / "compared" / "comparison.md").read_text()
    assert all(name in table for name in ("promptfl", "kgcoop", "zero_shot", "local_only"))
    assert "tabular" in (tmp_path / "table.tex").read_text()
    assert "kgcoop" in (tmp_path / "table.csv").read_text()


@pytest.mark.slow
def test_the_developers_path(follow: Callable[[str], list[str]], tmp_path: Path) -> None:
    printed = follow("developer")
    assert "Halved" in printed[0]
    assert (tmp_path / "halved-bundle" / "promptfed_config.json").is_file()


@pytest.mark.slow
def test_the_hospitals_path(follow: Callable[[str], list[str]], tmp_path: Path) -> None:
    for name in ("flwr", "dp_accounting", "cryptography"):
        pytest.importorskip(name)
    for k, site in enumerate(("north", "east", "south")):
        for j, kind in enumerate(("cat", "dog", "fox")):
            (tmp_path / "photos" / site / kind).mkdir(parents=True)
            for n in range(10):
                colour = (40 * k + 3 * n, 80 * j + n, 255 - 70 * k - 2 * n)
                Image.new("RGB", (24, 24), colour).save(tmp_path / "photos" / site / kind / f"{n}.png")
    printed = follow("hospital")
    assert any("north" in text for text in printed)
    assert (tmp_path / "private" / "privacy.json").is_file()
    assert (tmp_path / "hospitals" / "README.md").is_file()
    assert (tmp_path / "newcomer" / "promptfed_config.json").is_file()


@pytest.mark.parametrize("page", sorted(path.stem for path in GUIDES.glob("*.md")))
def test_commands_that_are_not_run_exist_with_their_options(page: str, command_line: click.Command) -> None:
    for kind, text in blocks(page):
        for words in commands(text) if kind == "console norun" else []:
            if words[0] == "promptfed":
                known = _options(command_line, words[1:])
                assert {word for word in words if word.startswith("--")} <= known, words


def _options(command: Any, words: list[str]) -> set[str]:
    """Return the options of the command that ``words`` begin with."""
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    return {option for parameter in command.params for option in parameter.opts}


def test_the_messages_of_the_troubleshooting_page_exist() -> None:
    root = GUIDES.parents[1]
    source = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("promptfed", "tasks", "blackbox")
        for path in (root / folder).rglob("*.py")
    )
    page = (GUIDES.parent / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [text for line in re.findall(r"^### (.*)$", page, re.M) for text in re.findall(r"`([^`]*)`", line)]
    of_click = {"No such command", "No such option"}
    assert len(quoted) > 8
    assert [text for text in quoted if text not in source and text not in of_click] == []


@pytest.mark.slow
@pytest.mark.parametrize("program", ["flower-superlink", "flower-supernode", "flwr run", "flwr supernode register"])
def test_flowers_programs_have_the_options_that_are_named(program: str) -> None:
    pytest.importorskip("flwr")
    root = GUIDES.parents[1]
    pages = [*(root / "docs").rglob("*.md"), *(root / "examples" / "deployment").iterdir()]
    pages.append(root / "promptfed" / "deployment" / "readme.py")
    texts = [re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8")) for page in pages if page.is_file()]
    lines = [line for text in texts for line in re.findall(rf"{program}\b([^\n`|&]*)", text)]
    named = {option for line in lines for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)}
    words = [str(Path(sys.executable).with_name(program.split()[0])), *program.split()[1:], "--help"]
    if not Path(words[0]).is_file():
        words[0] = program.split()[0]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert lines
    assert named <= set(re.findall(r"--[a-z][a-z-]+", done.stdout + done.stderr))
