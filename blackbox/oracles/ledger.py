"""Who asked a black box for how much: one row for every stage, round and client, in the run directory.

It is written as requests are settled, so that a run that was killed still knows what it paid. Requests under way are
written down before they are made: what a killed process left open counts as spent, for it may have been carried out.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from promptfed.blackbox.oracles.budget import Reservation
from promptfed.blackbox.oracles.database import connect, patiently
from promptfed.errors import FormatError, RunError
from promptfed.usage import Usage

FILE = "oracle.sqlite"
LOST = "lost"
"""The stage of requests that were under way when a process was killed."""
_COUNTS = [f.name for f in fields(Usage)]
_OPEN = ("process", "number", "calls", "tokens", "usd")


@dataclass(frozen=True)
class Account:
    """Whose requests they are; round 0 and client -1: nobody's in particular (tests, validation)."""

    stage: str = ""
    round: int = 0
    client: int = -1


class OracleLedger:
    """Usage by account, in ``file`` (None: in memory only). Safe for threads; one process writes at a time (the run's
    lock sees to that). Each row carries a checksum. Raises RunError for a file that is damaged or cannot be written."""

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._lock = threading.Lock()
        with self._guarded():
            self._database = connect(":memory:" if file is None else file)
            columns = ", ".join(f"{name} REAL NOT NULL DEFAULT 0" for name in _COUNTS)
            patiently(lambda: self._database.execute("PRAGMA journal_mode=WAL"), file)
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute(
                f"CREATE TABLE IF NOT EXISTS usage (stage TEXT, round INT, client INT, {columns}, checksum TEXT, "
                "PRIMARY KEY (stage, round, client))"
            )
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS under_way (process INT, number INT, calls INT, tokens INT, usd REAL, "
                "checksum TEXT, PRIMARY KEY (process, number))"
            )
            self._extend("usage", {**dict.fromkeys(_COUNTS, "REAL NOT NULL DEFAULT 0"), "checksum": "TEXT"})
            self._extend("under_way", {"checksum": "TEXT"})

    def add(self, account: Account, usage: Usage) -> None:
        """Add ``usage`` to what ``account`` has."""
        with self._lock, self._guarded(), self._at_once():
            self._add(account, usage)

    def open(self, reservation: Reservation) -> None:
        """A request is about to be made."""
        wanted = reservation.usage
        row = (os.getpid(), reservation.number, wanted.oracle_calls, wanted.prompt_tokens, wanted.usd)
        with self._lock, self._guarded():
            statement = f"INSERT OR REPLACE INTO under_way ({', '.join(_OPEN)}, checksum) VALUES (?, ?, ?, ?, ?, ?)"
            patiently(lambda: self._database.execute(statement, (*row, _checksum(row))), self.file)

    def settle(self, account: Account, reservation: Reservation, used: Usage) -> None:
        """It is over and cost ``used``; both are written in one step."""
        with self._lock, self._guarded(), self._at_once():
            self._database.execute(
                "DELETE FROM under_way WHERE process = ? AND number = ?", (os.getpid(), reservation.number)
            )
            self._add(account, used)

    def reclaim(self) -> Usage:
        """Count what a killed process left under way as spent, under the stage ``lost``; returns it."""
        with self._lock, self._guarded(), self._at_once():
            lost = Usage()
            for *row, seal in self._database.execute(f"SELECT {', '.join(_OPEN)}, checksum FROM under_way"):
                _check(row, seal)
                lost += Usage(oracle_calls=row[2], prompt_tokens=row[3], usd=row[4])
            self._database.execute("DELETE FROM under_way")
            self._add(Account(LOST), lost)
        return lost

    def total(self, stage: str | None = None) -> Usage:
        """All that one stage, or with None the run, has used."""
        total = Usage()
        for row in self.rows():
            if stage is None or row["stage"] == stage:
                total += Usage(**{name: row[name] for name in _COUNTS})
        return total

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary an account, sorted."""
        names = ["stage", "round", "client", *_COUNTS]
        with self._lock, self._guarded():
            table = self._database.execute(
                f"SELECT {', '.join(names)}, checksum FROM usage ORDER BY stage, round, client"
            ).fetchall()
            for *row, seal in table:
                _check(row, seal)
        rows = [dict(zip(names, row, strict=True)) for *row, _ in table]
        return [{n: v if n in ("stage", "usd") else int(v) for n, v in row.items()} for row in rows]

    def close(self) -> None:
        self._database.close()

    def _add(self, account: Account, usage: Usage) -> None:
        if usage == Usage():
            return
        key = (account.stage, account.round, account.client)
        columns = ", ".join(_COUNTS)
        before = self._database.execute(
            f"SELECT {columns}, checksum FROM usage WHERE stage = ? AND round = ? AND client = ?", key
        ).fetchone()
        added = [float(value) for value in asdict(usage).values()]
        if before is not None:
            _check((*key, *before[:-1]), before[-1])
            added = [one + other for one, other in zip(before[:-1], added, strict=True)]
        marks = ", ".join("?" * (len(key) + len(added) + 1))
        self._database.execute(
            f"INSERT OR REPLACE INTO usage (stage, round, client, {columns}, checksum) VALUES ({marks})",
            (*key, *added, _checksum((*key, *added))),
        )

    def _extend(self, table: str, columns: Mapping[str, str]) -> None:
        """Add the columns that a file of an earlier version lacks: it counts less, and its rows have no checksum."""
        there = {row[1] for row in self._database.execute(f"PRAGMA table_info({table})")}
        for name, kind in columns.items():
            if name not in there:
                self._database.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        patiently(lambda: self._database.execute("BEGIN IMMEDIATE"), self.file)
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, FormatError, ValueError, TypeError, OverflowError) as error:
            raise RunError(
                f"cannot keep account of the oracle in '{self.file or 'memory'}': {error}; a damaged file can be "
                "deleted: what events.jsonl says was spent still counts against the budget"
            ) from error


def _checksum(row: Sequence[Any]) -> str:
    """Return the hex SHA-256 of a row's other columns; whole numbers are hashed as SQLite gives them back."""
    plain = [value if isinstance(value, str) else float(value) for value in row]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def _check(row: Sequence[Any], seal: str | None) -> None:
    """Raise FormatError if ``row`` is not what was written; one of an earlier version has no checksum."""
    if seal is not None and _checksum(row) != seal:
        raise FormatError(f"the row of {row[0]!r} is not what was written")
