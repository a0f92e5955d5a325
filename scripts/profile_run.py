"""Say where the time of a run goes: the default one, first with an empty cache and then once more.

    python scripts/profile_run.py                             # the default run, about a minute on two cores
    python scripts/profile_run.py --method fedtpg --rounds 5  # any options of `promptfed train`

Each run is a process of its own. What a part does on behalf of another counts where it happens: the images that
evaluation encodes are with "images: encoded", and what is loaded on first use is with "libraries loaded". Wrapping
these functions costs a run a few hundredths of its time. The whole is the time from the start of the process.
"""

from __future__ import annotations

import argparse
import builtins
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACES = (
    ("import", "libraries loaded", "builtins", "__import__"),
    ("start", "options and registries", "promptfed.experiment", "resolve"),
    ("data", "data and partition", "promptfed.objects", "Objects.task_of"),
    ("model", "model loaded", "promptfed.objects", "Objects.model_of"),
    ("images", "images: read and drawn", "promptfed.backbones.features", "FeatureStore.fill"),
    ("pixels", "images: encoded", "promptfed.backbones.openclip", "OpenClipBackbone.encode_images"),
    ("rounds", "rounds: server, batches, losses", "promptfed.federation", "Federation.run_round"),
    ("texts", "texts: forward", "promptfed.backbones.base", "Backbone.encode_prompted_texts"),
    ("plain", "texts: forward", "promptfed.backbones.openclip", "OpenClipBackbone.encode_text"),
    ("backward", "texts: backward", "torch", "Tensor.backward"),
    ("optimizer", "optimiser steps", "promptfed.local_optimizers", "LocalOptimizer.step"),
    ("validation", "validation each round, less its texts", "promptfed.training", "Training._validated"),
    ("evaluation", "tests at the end, less their texts", "promptfed.training", "Training._evaluate"),
    ("checkpoint", "checkpoints", "promptfed.training", "Training._save"),
    ("events", "event log", "promptfed.runs.events", "EventLog.write"),
    ("report", "report", "promptfed.report.html", "write_report"),
)
"""(key, what the table says, module, function): the parts of a run, as they are wrapped once the module is loaded."""
REST = "all else"


class Clock:
    """Adds up the seconds of each part, less those of the parts that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stack: list[str] = [REST]
        self._since = time.perf_counter()

    def _count(self) -> None:
        now = time.perf_counter()
        part = self._stack[-1]
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function``, the time of which is counted as ``part``."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self._count()
            self._stack.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._count()
                self._stack.pop()

        return wrapper

    def stop(self) -> dict[str, float]:
        """Return the seconds of each part until now."""
        self._count()
        return self.seconds


def child(options: list[str], start: float) -> None:
    """Run ``promptfed train`` in this process and print a line of JSON: the seconds of each part."""
    clock = Clock()
    clock.seconds[REST] = time.time() - start
    plain_import = clock.timed("libraries loaded", builtins.__import__)
    builtins.__import__ = plain_import
    from promptfed.cli import main

    for _, part, module, name in PLACES[1:]:
        owner: Any = importlib.import_module(module)
        *path, function = name.split(".")
        for step in path:
            owner = getattr(owner, step)
        wrapped = clock.timed(part, getattr(owner, function))
        for loaded in (owner, *(vars_of for vars_of in list(sys.modules.values()) if _holds(vars_of, owner, function))):
            setattr(loaded, function, wrapped)
    try:
        main(["train", *options])
    except SystemExit as end:
        if end.code:
            raise
    print(json.dumps(clock.stop()))


def _holds(module: Any, owner: Any, function: str) -> bool:
    """Whether ``module`` of promptfed has imported the function of ``owner`` by its name."""
    is_ours = getattr(module, "__name__", "").startswith("promptfed")
    return is_ours and getattr(module, function, None) is getattr(owner, function)


def measured(options: list[str], folder: Path, number: int) -> dict[str, float]:
    """Return the seconds of each part of one run in a process of its own."""
    environment = {**os.environ, "PROMPTFED_CACHE": str(folder / "cache")}
    command = [sys.executable, __file__, "--child", str(time.time()), *options, "--run", str(folder / f"run-{number}")]
    finished = subprocess.run([*command, "--quiet"], env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(finished.stderr)
    seconds: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return seconds


def table(runs: list[dict[str, float]]) -> str:
    """Return a line for each part: seconds, and share of the whole, of each run."""
    parts = list(dict.fromkeys([part for _, part, *_ in PLACES]))
    wholes = [sum(run.values()) for run in runs]
    lines = [f"{'':40}{'empty cache':>18}{'second run':>18}"]
    for part in (*parts, REST):
        cells = [
            f"{run.get(part, 0.0):8.2f} s {run.get(part, 0.0) / whole:6.1%}"
            for run, whole in zip(runs, wholes, strict=True)
        ]
        lines.append(f"{part:40}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join([*lines, f"{'whole':40}" + "".join(f"{whole:8.2f} s       ".rjust(18) for whole in wholes)])


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[3:], float(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(table([measured(options, folder, number) for number in range(2)]))


if __name__ == "__main__":
    main()
