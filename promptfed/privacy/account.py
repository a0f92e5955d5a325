"""``releases.json``: every release of a private run, written before anybody sees it, so that none is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from promptfed.errors import FormatError, RunError
from promptfed.files.atomic import write_bytes
from promptfed.files.sealed_json import opened_json, sealed_json
from promptfed.printable import printable
from promptfed.privacy.release import Spent
from promptfed.readers.files import MEGABYTE, read_bytes

FILE = "releases.json"
MOST_BYTES = 64 * MEGABYTE


class LimitReached(RunError):  # noqa: N818 (a limit that was set, not a fault)
    """The next release would spend more than the run may spend."""


class ReleaseAccount:
    """Releases of one run, on disk. A checkpoint that is older than the last release does not take it back.

    Args:
        folder: The run's folder.
        most: How many releases the run may make; None: any number.

    Raises:
        RunError: The file differs from what was written.
    """

    def __init__(self, folder: Path, most: int | None = None) -> None:
        self.path, self.most = folder / FILE, most
        self.releases = read_releases(folder)

    def __call__(self, spent: Spent) -> None:
        """Record a release; the very same one, made again after a crash, counts once.

        Raises:
            LimitReached: It is one too many, and must not be made.
            DiskError: The disk refuses; then it must not be made either.
        """
        if spent in self.releases:
            return
        if self.most is not None and len(self.releases) >= self.most:
            raise LimitReached(f"{self.most} releases are all that the run may make")
        releases = (*self.releases, spent)
        write_bytes(self.path, sealed_json({"releases": [asdict(each) for each in releases]}))
        self.releases = releases

    def knows(self, round: int) -> bool:
        """Return whether ``round`` was released before."""
        return any(spent.round == round for spent in self.releases)

    def check(self, rounds: int) -> None:
        """Check that the releases of the first ``rounds`` rounds, which a checkpoint holds, are all accounted for.

        Raises:
            RunError: One is missing, so what the run has spent is not known.
        """
        missing = set(range(1, rounds + 1)) - {spent.round for spent in self.releases}
        if missing:
            raise RunError(
                f"'{printable(self.path)}' lacks the release of round {min(missing)}, so what the run has spent is not "
                "known: bring the file back, or train anew"
            )


def read_releases(folder: Path) -> tuple[Spent, ...]:
    """Return the releases of the run in ``folder``, none if it has made none.

    Raises:
        RunError: The file differs from what was written.
    """
    path = folder / FILE
    try:
        content = opened_json(read_bytes(path, MOST_BYTES))
        return tuple(_release(record) for record in content["releases"])
    except FileNotFoundError:
        return ()
    except (OSError, FormatError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"cannot use {printable(path)}: {printable(error, 200)}") from error


def _release(record: dict[str, Any]) -> Spent:
    return Spent(int(record["round"]), str(record["mark"]), float(record["multiplier"]), float(record["probability"]))


def grouped(releases: Sequence[Spent]) -> dict[tuple[float, float], int]:
    """Return (multiplier, probability) -> how many releases were made with them."""
    counts: dict[tuple[float, float], int] = {}
    for spent in releases:
        key = spent.multiplier, spent.probability
        counts[key] = counts.get(key, 0) + 1
    return counts
