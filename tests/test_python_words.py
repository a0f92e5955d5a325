"""Messages are written in the words of the command line, and read in Python's by who calls from there."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import promptfed as pf
from promptfed.cli import main
from promptfed.errors import ConfigError, DiskError
from promptfed.progress import Progress
from promptfed.python_words import in_python, said_in, told_in
from promptfed.types import Incident

ROOT = Path(__file__).parents[1]
OTHERS = {
    "--size",  # of promptfed privacy plan
    "--set", "--search", "--port", "--file", "--api-key", "--max-", "--node-config", "--force-reinstall",
    "--enable-prompt-embeds", "--head", "--backend-store-uri", "--logdir", "--project",
    "--host", "--token-env", "--personal", "--license", "--include", "--local-dir", "--swa-full", "--trust-remote-code",
    "--token",  # of Flower's processes
    "--no-deps", "--observer", "--older-than",
}  # fmt: skip
"""Flags in messages that no caller in Python sees, and those of other programs."""


@pytest.mark.parametrize(
    ("typed", "called"),
    [
        ("go on with --resume 'my runs/x', or choose another --run DIR",
         "go on with promptfed.load_run('my runs/x').resume(), or choose another folder"),
        ("promptfed train --resume writes it again", "promptfed.load_run(...).resume() writes it again"),
        ("has no round; promptfed train --resume runs/x", 'has no round; promptfed.load_run("runs/x").resume()'),
        ("anew: promptfed train --config FILE --run DIR", "anew: promptfed.train(config=..., folder=...)"),
        ("or promptfed train --method local_only to share", 'or promptfed.train(method="local_only") to share'),
        ("partition auto: x; --partition says otherwise", "partition auto: x; partition says otherwise"),
        ("use --partition classes, dirichlet or iid", 'use partition="classes", dirichlet or iid'),
        ("photographs: --backbone lit does", 'photographs: model="lit" does'),
        ("by --backbone open_clip:MODEL/FILE", 'by model="open_clip:MODEL/FILE"'),
        ("--engine ray does not go with it", 'engine="ray" does not go with it'),
        ("has it by --plugin", "has it by promptfed.load_plugin"),
        ("so: add --plugin my.py", 'so: add promptfed.load_plugin("my.py")'),
        ("raise --shots or task.val_shots", "raise shots or task.val_shots"),
        ("(--shared), or --overwrite.", "(shared=True), or overwrite=True."),
        ("raise --set method.queries", 'raise method_options["queries"]'),
        ("(--set method.lr=1e-05) or --precision float32", '(method_options={"lr": 1e-05}) or precision="float32"'),
        ("--set method.keep=false, --set rounds=3", 'method_options={"keep": False}, rounds=3'),
        ("(--set 'task.words={...}')", '(task_options={"words": {...}})'),
        ("use --set 'method.lr=0.1', or", 'use method_options={"lr": 0.1}, or'),
        ('with --set "task.words={CLASS: WORD, ...}"', 'with task_options={"words": {CLASS: WORD, ...}}'),
        ("needs --model NAME: the names", 'needs oracle_options["model"]: the names'),
        ("--interpolate '0,2': steps", "alphas='0,2': steps"),
        ("pip install --force-reinstall x", "pip install --force-reinstall x"),
    ],
)  # fmt: skip
def test_a_flag_becomes_an_argument(typed: str, called: str) -> None:
    assert in_python(typed) == called == in_python(called)


def messages() -> list[str]:
    """All texts with a flag in the code that Python calls, but docstrings; what an f-string fills in is ``7``."""
    texts = []
    for path in [p for root in ("promptfed", "tasks", "blackbox") for p in (ROOT / root).rglob("*.py")]:
        if {"commands", "cli.py", "deployment", "python_words.py"} & set(path.parts):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        inner |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value if isinstance(part, ast.Constant) else "7" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
                texts.append(node.value)
    return [text for text in texts if re.search("--[a-z]", text) and not text.startswith("\n")]


def test_every_flag_in_a_message_has_an_argument() -> None:
    texts = messages()
    assert len(texts) > 100
    left = {flag for text in texts for flag in re.findall("--[a-z][a-z-]*", in_python(text))}
    left -= {flag for text in texts if "promptfed predict" in text for flag in re.findall("--[a-z-]+", text)}
    assert left <= OTHERS


def test_an_error_keeps_its_kind_and_what_is_no_option() -> None:
    with pytest.raises(ConfigError, match=r"^raise shots$") as said, said_in(in_python):
        raise ConfigError("raise --shots")
    assert said.value.args == ("raise shots",)
    with pytest.raises(DiskError, match="cannot write --shots: full"), said_in(in_python):
        raise DiskError(28, "full", "--shots")


@dataclass
class Kept(Progress):
    lines: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_notes_are_told_in_the_same_words() -> None:
    kept, silent = Kept(), Progress()
    told = told_in(in_python, kept)
    told.note("with --threads 1")
    told.incident("x", Incident("refused", 1, 0, "use --shots 2"))
    told.personalized(1, 2)
    assert kept.lines == ["with threads=1", "x: use shots=2"]
    assert told_in(in_python, silent) is silent


def test_each_door_has_its_own_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    options: dict[str, Any] = {"clients": 99, "partition": "classes", "folder": tmp_path / "run", "progress": False}
    with pytest.raises(pf.PromptFedError, match=r"use clients=24 or fewer, task_options=\{"):
        pf.train(**options)
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--clients", "99", "--partition", "classes", "--run", str(tmp_path / "run")])
    assert "use --clients 24 or fewer, --set task.base_fraction=1" in capsys.readouterr().err
    with pytest.raises(pf.PromptFedError, match=r"is a file; choose another folder$"):
        pf.train(folder=tmp_path / "file", progress=False)


@pytest.mark.parametrize("progress", [3, None, "bar"])
def test_progress_is_a_switch_or_an_object(tmp_path: Path, progress: Any) -> None:
    with pytest.raises(pf.PromptFedError, match=r"^progress is .*: give True, False, or a Progress object$"):
        pf.train(folder=tmp_path / "run", progress=progress)
    with pytest.raises(pf.PromptFedError, match=r"give True, False, or a ComparisonProgress object$"):
        pf.compare("promptfl", folder=tmp_path / "out", progress=progress)
    assert not list(tmp_path.iterdir())
