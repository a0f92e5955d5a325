"""promptfed's command line, run in this process, with what it printed; and what a run directory ended with."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from PIL import Image

from promptfed.backbones import load_backbone
from promptfed.cli import main

SMALL = (
    *("--backbone", "tiny", "--rounds", "3", "--shots", "1", "--clients", "2", "--threads", "1"),
    *("--baselines", "local_only", "--set", "task.val_shots=1", "--set", "task.test_per_class=1"),
)
"""Of a run that takes a second."""
CLASSES, IMAGES = 4, 5
LOCKS = (".lock",)


@dataclass(frozen=True)
class Result:
    """How a command ended: its exit code, what it printed on stderr and stdout."""

    code: int
    errors: str
    output: str

    @property
    def is_clean_refusal(self) -> bool:
        """Whether it is exit code 2 with one line of error."""
        lines = [line for line in self.errors.splitlines() if line.startswith("error:")]
        return self.code == 2 and len(lines) == 1 and "Traceback" not in self.errors


def run(*words: str) -> Result:
    """Run ``promptfed`` with ``words``; the backbone is loaded once, and figures are written without being drawn."""
    errors, output, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output), _quickly():
        try:
            main(list(words))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return Result(code, errors.getvalue(), output.getvalue())


@contextlib.contextmanager
def _quickly() -> Iterator[None]:
    def write_no_picture(_figure: object, target: io.BytesIO, **_options: object) -> None:
        target.write(b"a picture")

    with (
        patch("promptfed.objects.load_backbone", _loaded_once),
        patch("matplotlib.figure.Figure.savefig", write_no_picture),
    ):
        yield


_loaded_once = functools.cache(load_backbone)


def make_data(folder: Path) -> Path:
    """Write a few plain pictures of each class into ``folder``, and return it."""
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(IMAGES):
            colour = (60 * label, 20 + 30 * number, 90)
            Image.new("RGB", (16, 16), colour).save(folder / f"class{label}" / f"{number}.png")
    return folder


def train(folder: Path, data: Path) -> Result:
    """Train a small run on ``data`` in ``folder``, or go on with the one that is there."""
    if (folder / "config.yaml").exists():
        return run("train", "--resume", str(folder))
    return run("train", *SMALL, "--data", f"folder:{data}", "--run", str(folder))


def files_of(folder: Path) -> list[str]:
    """Names of all files below ``folder``, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name not in LOCKS)


def bits_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file whose bytes depend on options and data alone."""
    names = [name for name in files_of(folder) if name.endswith((".safetensors", "partition.json", "config.yaml"))]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def figures_of(folder: Path) -> dict[str, Any]:
    """What metrics.json says, without times."""
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    metrics.pop("checksum")
    metrics["cost"].pop("seconds")
    return metrics


def differing(folder: Path, wanted: Path) -> str:
    """Return in words in which files, or files' bytes, ``folder`` is not as ``wanted``; empty if it is."""
    if strange := set(files_of(folder)) ^ set(files_of(wanted)):
        return f"other files: {', '.join(sorted(strange))}"
    mine, others = bits_of(folder), bits_of(wanted)
    return ", ".join(f"other bytes: {name}" for name in mine if mine[name] != others[name])
