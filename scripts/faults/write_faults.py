"""Disks that refuse: every file operation of every command fails once."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.operations import count_operations, failing
from faults.outcomes import Outcome
from faults.outcomes import Result as Judgement
from faults.program import Result, differing, make_data, run, train

SUITE = "write faults"
CODES = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES)


def run_write_faults(folder: Path, *, every: int = 1, commands: tuple[str, ...] = ()) -> list[Outcome]:
    """Let each ``every``-th file operation of each command fail, then give the command again without a fault.

    Args:
        folder: An empty folder.
        every: 1 tries every operation.
        commands: Of ``train``, ``resume``, ``report``, ``personalize``, ``export``; by default all.

    Returns:
        One outcome a fault. ``refused``: exit code 2 and one line, and after the second try the files and bits of an
        undisturbed command; ``no difference``: it was done all the same, with those files and bits.
    """
    finished, stopped, data = folder / "finished", folder / "stopped", make_data(folder / "data")
    _must(train(finished, data))
    _stop_after_first_round(finished, stopped)
    tried: dict[str, tuple[Path | None, Callable[[Path], Result]]] = {
        "train": (None, lambda home: train(home / "run", data)),
        "resume": (stopped, lambda home: train(home / "run", data)),
        "report": (finished, lambda home: run("report", str(home / "run"))),
        "personalize": (finished, lambda home: run("personalize", str(home / "run"), "--epochs", "1")),
        "export": (
            finished,
            lambda home: run("export", str(home / "run"), "--client", "0", "--overwrite", "--out", str(home / "out")),
        ),
    }
    outcomes: list[Outcome] = []
    for name in commands or tuple(tried):
        outcomes += _tries(folder / name, name, *tried[name], every)
    return outcomes


def _tries(
    work: Path, name: str, start: Path | None, command: Callable[[Path], Result], every: int
) -> Iterator[Outcome]:
    wanted = work / "wanted"
    _prepare(wanted, start)
    operations = count_operations(wanted, lambda: _must(command(wanted)))
    for number in range(1, operations + 1, every):
        home, code, stays = work / f"try-{number}", CODES[number % len(CODES)], bool(number // every % 2)
        _prepare(home, start)
        with failing(home, number, code, stays=stays) as watch:
            result = command(home)
        fault = f"{name}: {errno.errorcode[code]} at operation {number}{' and all later' if stays else ''} {watch.last}"
        yield Outcome(SUITE, fault, *_judged(result, home, wanted, command))
        shutil.rmtree(home)


def _judged(result: Result, home: Path, wanted: Path, command: Callable[[Path], Result]) -> tuple[Judgement, str]:
    if result.code and not result.is_clean_refusal:
        return "traceback", result.errors
    if result.code and (again := command(home)).code:
        return "lost", again.errors
    difference = differing(home, wanted)
    if difference:
        return "silent difference", difference
    return ("refused" if result.code else "no difference"), result.errors


def _prepare(folder: Path, start: Path | None) -> None:
    folder.mkdir(parents=True)
    if start is not None:
        shutil.copytree(start, folder / "run")


def _stop_after_first_round(finished: Path, stopped: Path) -> None:
    """A copy of a finished run that lacks its last rounds: what a killed process leaves."""
    shutil.copytree(finished, stopped)
    for name in ("metrics.json", "report.html"):
        (stopped / name).unlink()
    for place in (stopped / "checkpoints").iterdir():
        if place.name > "round-0001":
            shutil.rmtree(place)


def _must(result: Result) -> None:
    if result.code:
        raise RuntimeError(f"the undisturbed command failed: {result.errors}")
