"""Processes that are killed: kill -9 just before a file operation, drawn at random; then the command is given again."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.operations import count_operations, watched
from faults.outcomes import Outcome
from faults.program import Result, differing, make_data, run, train

SUITE = "kills"


def run_kills(seed: int, count: int, folder: Path) -> list[Outcome]:
    """Kill ``train`` and ``export`` at ``count`` places each, give the command again, and compare.

    ``folder`` is empty. An outcome is ``no difference`` if files and bits are those of an undisturbed command.
    """
    finished, data = folder / "finished", make_data(folder / "data")
    if train(finished, data).code:
        raise RuntimeError("the undisturbed run failed")
    draw = random.Random(seed)

    def export(home: Path) -> Result:
        return run("export", str(finished), "--client", "0", "--overwrite", "--out", str(home / "bundle"))

    return [
        *_tries(folder / "train", "train", lambda home: train(home / "run", data), count, draw),
        *_tries(folder / "export", "export", export, count, draw),
    ]


def _tries(
    work: Path, name: str, command: Callable[[Path], Result], count: int, draw: random.Random
) -> Iterator[Outcome]:
    wanted = work / "wanted"
    wanted.mkdir(parents=True)
    operations = count_operations(wanted, lambda: command(wanted))
    for number in sorted(draw.choices(range(1, operations + 1), k=count)):
        home = work / "try"
        home.mkdir()
        child = os.fork()
        if child == 0:
            try:
                with watched(home, lambda seen, *_, number=number: _die(seen == number)):
                    command(home)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        again, fault = command(home), f"{name}: killed before operation {number} of {operations}"
        if again.code:
            yield Outcome(SUITE, fault, "lost", again.errors)
        elif difference := differing(home, wanted):
            yield Outcome(SUITE, fault, "silent difference", difference)
        else:
            yield Outcome(SUITE, fault, "no difference")
        shutil.rmtree(home)


def _die(is_now: bool) -> None:
    if is_now:
        os.kill(os.getpid(), signal.SIGKILL)
