"""Bits flipped in the files of a run that was stopped, which then goes on.

The run is stopped in its last round, so that both baselines, an event log and several checkpoints are there. After a
flip it goes on in this process; what it ends with is compared with the run that was never touched.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.outcomes import Outcome
from promptfed.config import build_config
from promptfed.errors import PromptFedError
from promptfed.experiment import Experiment
from promptfed.progress import Progress
from promptfed.resolve import resolve
from promptfed.runs.directory import RunDirectory
from promptfed.training import Interrupted, Training

SUITE = "bit flips in run files"
OPTIONS = {
    "rounds": 3,
    "shots": 1,
    "clients": 2,
    "threads": 1,
    "task_options": {"val_shots": 1, "test_per_class": 1},
}
EXACT = ("zero_shot", "local_only", "method", "prompt_sha256", "template", "held_out")
"""What two runs must agree in, besides the counts in ``cost``."""
COUNTS = ("bytes_up", "bytes_down", "text_encoder_calls")


class Lines(Progress):
    """Keeps the lines that a user would have seen."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def run_flips(seed: int, count: int, folder: Path) -> list[Outcome]:
    """Flip one bit each in ``count`` copies of a stopped run, go on with each, and return what came of it."""
    draw = random.Random(seed)
    with _quiet():
        experiment, stopped, expected = _stopped_run(folder)
        files = sorted(path for path in stopped.rglob("*") if path.is_file() and path.name not in (".lock", "run.log"))
        return [_flip(draw, experiment, stopped, files, expected, folder / "flipped") for _ in range(count)]


def _stopped_run(folder: Path) -> tuple[Experiment, Path, dict[str, Any]]:
    """A run that was stopped after the second of three rounds, and what the whole run ends with."""
    config = resolve(build_config(OPTIONS))
    experiment = Experiment.build(config)
    for name in ("first", "whole"):  # the first run fills the cache, so that it counts more calls than all others
        whole = RunDirectory.create(folder / name, config, label=name)
        expected = Training(experiment, whole).execute()

    def late() -> bool:
        return (folder / "stopped" / "checkpoints" / "round-0002").exists()

    cut = RunDirectory.create(folder / "stopped", config, label="stopped")
    try:
        Training(experiment, cut, should_stop=late).execute()
    except Interrupted:
        return experiment, cut.path, json.loads(json.dumps(expected))
    raise AssertionError("the run was not stopped")


def _flip(
    draw: random.Random,
    experiment: Experiment,
    stopped: Path,
    files: list[Path],
    expected: dict[str, Any],
    place: Path,
) -> Outcome:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(stopped, place)
    # Small files matter as much as large ones, so the file is drawn first.
    path = place / draw.choice(files).relative_to(stopped)
    content = bytearray(path.read_bytes())
    bit = draw.randrange(8 * len(content)) if content else 0
    if content:
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    fault = f"bit {bit} of {path.relative_to(place)}"
    watch = Lines()
    try:
        run = RunDirectory.open(place)
        # Other options must be refused, or be such as change nothing that is trained.
        same = run.config == experiment.config
        now = experiment if same else Experiment.build(run.config, like=experiment)
        with run.lock():
            metrics = json.loads(json.dumps(Training(now, run, watch).execute()))
    except PromptFedError as error:
        return Outcome(SUITE, fault, "refused", str(error))
    except Exception as error:
        return Outcome(SUITE, fault, "traceback", repr(error))
    equal = all(metrics.get(name) == expected.get(name) for name in EXACT)
    equal &= all(metrics["cost"][name] == expected["cost"][name] for name in COUNTS)
    if equal:
        return Outcome(SUITE, fault, "no difference", "; ".join(watch.lines))
    return Outcome(SUITE, fault, "said" if watch.lines else "silent difference", "; ".join(watch.lines))


@contextmanager
def _quiet() -> Iterator[None]:
    """The package's warnings are what ``Lines`` keeps; they need not be printed as well."""
    logger = logging.getLogger("promptfed")
    before, logger.disabled = logger.disabled, True
    handler = logging.NullHandler()
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate, logger.disabled = propagate, before
        logger.removeHandler(handler)
