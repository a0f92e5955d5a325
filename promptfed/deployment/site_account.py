"""What a site has released of its examples in all runs together: ``releases.json`` of its state directory.

A release is in the file before it is made. No server sees the file, and none can make the site overdraw it: runs of one
server or of several, one after the other or side by side, spend from the same account. Whoever deletes it forgets what
was spent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from promptfed.errors import DeploymentError, FormatError
from promptfed.files.atomic import PRIVATE, naming, write_bytes
from promptfed.files.locks import patient_lock
from promptfed.files.paths import make_private_folder
from promptfed.files.sealed_json import opened_json, sealed_json
from promptfed.printable import printable
from promptfed.privacy.accountant import Release, epsilon
from promptfed.privacy.secret_key import KEY_FILE
from promptfed.readers.files import MEGABYTE, read_bytes

FILE, LOCK = "releases.json", ".releases.lock"
MOST_BYTES = 64 * MEGABYTE


@dataclass(frozen=True)
class SiteRelease:
    """The steps of one round of a run.

    Attributes:
        run: The name of the run.
        round: The round.
        mark: A keyed hash of all that the update is made of.
        multiplier: The noise, z.
        probability: The chance of each example to be in a step.
        steps: The number of steps.
    """

    run: str
    round: int
    mark: str
    multiplier: float
    probability: float
    steps: int


@dataclass(frozen=True)
class RunTerms:
    """What a run began with, which its server cannot change later.

    Attributes:
        terms: The SHA-256 of the agreement.
        key: The fingerprint of the key that its noise is from.
        method: What it trains.
        rounds: The planned rounds.
        delta: The chance with which its promise may fail.
        limit: The most that it may spend; None: any.
    """

    terms: str
    key: str
    method: str
    rounds: int
    delta: float
    limit: float | None


@dataclass(frozen=True)
class SiteAccount:
    """The account of a site, as a value.

    Attributes:
        runs: Run -> its terms.
        releases: The releases of all runs, the latest at the end.
    """

    runs: dict[str, RunTerms]
    releases: tuple[SiteRelease, ...] = ()

    @classmethod
    def load(cls, state_dir: Path) -> SiteAccount:
        """Read the account in ``state_dir``, which is empty for a site that has released nothing.

        Raises:
            DeploymentError: It is damaged, or it is gone and the keys of runs are there.
        """
        path = state_dir / FILE
        try:
            content = opened_json(read_bytes(path, MOST_BYTES))
            runs = {str(run): _terms(record) for run, record in content["runs"].items()}
            return cls(runs, tuple(_release(record) for record in content["releases"]))
        except FileNotFoundError:
            if any(state_dir.glob(f"*/{KEY_FILE}")):
                raise DeploymentError(
                    f"{printable(path)} is gone, so what this site has spent is not known: bring it back from a "
                    "backup, or give the node a new state-dir if nothing was released"
                ) from None
            return cls({})
        except (OSError, FormatError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise DeploymentError(f"cannot use {printable(path)}: {printable(error, 200)}") from error

    def save(self, state_dir: Path) -> None:
        """Write the account.

        Raises:
            DiskError: The disk refuses; then nothing may be released.
        """
        runs = {run: asdict(terms) for run, terms in self.runs.items()}
        content = {"runs": runs, "releases": [asdict(each) for each in self.releases]}
        with naming(state_dir):
            make_private_folder(state_dir)
        write_bytes(state_dir / FILE, sealed_json(content), PRIVATE)

    def of_run(self, run: str) -> tuple[SiteRelease, ...]:
        """Return the releases of one run."""
        return tuple(release for release in self.releases if release.run == run)

    def with_release(self, release: SiteRelease) -> SiteAccount:
        """Return the account after ``release``."""
        return replace(self, releases=(*self.releases, release))


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Hold the account for this process, so that no other one releases anything meanwhile.

    Raises:
        DiskError: The lock cannot be opened.
    """
    with naming(state_dir):
        make_private_folder(state_dir)
        with patient_lock(state_dir / LOCK, "the account of this site's examples"):
            yield


def spent(releases: Iterable[SiteRelease], delta: float) -> float:
    """Return the epsilon of ``releases`` at ``delta``: one example added or removed; infinite without noise.

    A round that a run released k times may have had the same batches each time. It counts as one release of each step
    with multiplier z / sqrt(k), which costs more than k whose batches are independent.
    """
    rounds: dict[tuple[str, int], list[SiteRelease]] = {}
    for release in releases:
        if release.steps:
            rounds.setdefault((release.run, release.round), []).append(release)
    counts: dict[tuple[float, float], int] = {}
    for group in rounds.values():
        if any(not each.multiplier for each in group):
            return math.inf
        first = group[0].multiplier
        noise = first if len(group) == 1 else math.fsum(each.multiplier**-2 for each in group) ** -0.5  # to the bit
        kind = noise, max(each.probability for each in group)
        counts[kind] = counts.get(kind, 0) + max(each.steps for each in group)
    return epsilon([Release(*kind, count) for kind, count in counts.items()], delta) if counts else 0.0


def _terms(record: dict[str, Any]) -> RunTerms:
    limit = record["limit"]
    return RunTerms(
        terms=str(record["terms"]),
        key=str(record["key"]),
        method=str(record["method"]),
        rounds=int(record["rounds"]),
        delta=float(record["delta"]),
        limit=None if limit is None else float(limit),
    )


def _release(record: dict[str, Any]) -> SiteRelease:
    return SiteRelease(
        run=str(record["run"]),
        round=int(record["round"]),
        mark=str(record["mark"]),
        multiplier=float(record["multiplier"]),
        probability=float(record["probability"]),
        steps=int(record["steps"]),
    )
