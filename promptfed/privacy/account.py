"""``releases.json``: every release of a private run, written before anybody sees it, so that none is forgotten."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from promptfed.errors import FormatError, RunError
from promptfed.files.atomic import write_bytes
from promptfed.files.sealed_json import opened_json, sealed_json
from promptfed.printable import printable
from promptfed.privacy.release import Spent
from promptfed.privacy.secret_key import KEY_FILE, SecretKey
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
        is_affordable: Whether releases are within what the run may spend; asked where a round has several, as each of
            them costs more than one of another round.

    Raises:
        RunError: The file differs from what was written.
    """

    def __init__(
        self,
        folder: Path,
        most: int | None = None,
        is_affordable: Callable[[Sequence[Spent]], bool] = lambda releases: True,
    ) -> None:
        self.path, self.most, self.is_affordable = folder / FILE, most, is_affordable
        self._key, self.releases = _read(folder)

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
        if len({each.round for each in releases}) < len(releases) and not self.is_affordable(releases):
            raise LimitReached("a round that is released again costs more than one of its own, and more than is left")
        content = {"key": self._key, "releases": [asdict(each) for each in releases]}
        write_bytes(self.path, sealed_json(content))
        self.releases = releases

    def bind(self, key: SecretKey) -> None:
        """Take ``key`` as the one that all releases are made with; the next release records its fingerprint.

        A round that is made again with another key is another release, even where its mark is the same.

        Raises:
            RunError: The releases so far were made with another key.
        """
        if self.releases and self._key != key.fingerprint:
            raise RunError(
                f"'{printable(self.path.parent / KEY_FILE)}' is not the key of the releases in {FILE}: bring the key "
                "back, or train anew"
            )
        self._key = key.fingerprint

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
    return _read(folder)[1]


def _read(folder: Path) -> tuple[str, tuple[Spent, ...]]:
    path = folder / FILE
    try:
        content = opened_json(read_bytes(path, MOST_BYTES))
        return str(content["key"]), tuple(_release(record) for record in content["releases"])
    except FileNotFoundError:
        return "", ()
    except (OSError, FormatError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"cannot use {printable(path)}: {printable(error, 200)}") from error


def _release(record: dict[str, Any]) -> Spent:
    numbers = (float(record["multiplier"]), float(record["probability"]), float(record.get("clip", 0)))
    return Spent(int(record["round"]), str(record["mark"]), *numbers)


def grouped(releases: Sequence[Spent]) -> dict[tuple[float, float], int]:
    """Return (multiplier, probability) -> how many releases were made with them.

    Releases of one round have the same cohort, so that a client is in all of them or in none: k with multiplier z are
    one with z / sqrt(k), which costs more than k that are sampled anew.
    """
    precisions: dict[tuple[int, float], float] = {}
    for spent in releases:
        key = spent.round, spent.probability
        precisions[key] = precisions.get(key, 0.0) + (spent.multiplier**-2 if spent.multiplier else math.inf)
    counts = Counter[tuple[float, float]]()
    once = Counter((spent.round, spent.probability) for spent in releases)
    for spent in releases:
        key = spent.round, spent.probability
        if once[key] == 1:  # to the bit
            counts[spent.multiplier, spent.probability] += 1
        elif key in precisions:
            counts[precisions.pop(key) ** -0.5, spent.probability] += 1
    return dict(counts)
