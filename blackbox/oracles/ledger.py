"""Ledger of a black box: one row of usage for every stage, round and client, in the run directory.

It is written as requests are settled, so that a killed run still knows its cost. Requests under way are written down
before they are made: those that a killed process leaves open count as spent, for they may have been carried out.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from promptfed.blackbox.oracles.budget import Reservation
from promptfed.blackbox.oracles.database import connect, patiently
from promptfed.errors import FormatError, RunError
from promptfed.usage import READINGS, Usage

FILE = "oracle.sqlite"
LOST = "lost"
"""The stage of requests that were under way when a process was killed."""
_COUNTS = [f.name for f in fields(Usage) if f.name not in READINGS]
_OPEN = ("process", "number", "calls", "tokens", "usd")


@dataclass(frozen=True)
class Account:
    """Owner of requests; round 0 and client -1 stand for requests of no client (tests, validation)."""

    stage: str = ""
    round: int = 0
    client: int = -1


class OracleLedger:
    """Usage by account, in ``file`` (None: in memory only).

    Safe for threads; one process writes at a time (the run's lock sees to that). Each row carries a checksum.

    Raises:
        RunError: The file is damaged or cannot be written.
    """

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
        """Add ``usage`` to the usage of ``account``."""
        with self._lock, self._guarded(), self._at_once():
            self._add(account, usage)

    def open(self, reservation: Reservation) -> None:
        """Record that a request is about to be made."""
        maximum = reservation.usage
        row = (os.getpid(), reservation.number, maximum.oracle_calls, maximum.prompt_tokens, maximum.usd)
        with self._lock, self._guarded():
            statement = f"INSERT OR REPLACE INTO under_way ({', '.join(_OPEN)}, checksum) VALUES (?, ?, ?, ?, ?, ?)"
            patiently(lambda: self._database.execute(statement, (*row, _checksum(row))), self.file)

    def settle(self, account: Account, reservation: Reservation, cost: Usage) -> None:
        """Record that it is over and its ``cost``; both in one step."""
        with self._lock, self._guarded(), self._at_once():
            self._database.execute(
                "DELETE FROM under_way WHERE process = ? AND number = ?", (os.getpid(), reservation.number)
            )
            self._add(account, cost)

    def reclaim(self) -> Usage:
        """Count requests that a killed process left open as spent, under the stage ``lost``; return their usage."""
        with self._lock, self._guarded(), self._at_once():
            total = Usage()
            for *row, seal in self._database.execute(f"SELECT {', '.join(_OPEN)}, checksum FROM under_way"):
                _check(row, seal)
                total += Usage(oracle_calls=row[2], prompt_tokens=row[3], usd=row[4])
            self._database.execute("DELETE FROM under_way")
            self._add(Account(LOST), total)
        return total

    def total(self, stage: str | None = None) -> Usage:
        """Return the usage of one stage, or with None of the run."""
        total = Usage()
        for row in self.rows():
            if stage is None or row["stage"] == stage:
                total += Usage(**{name: row[name] for name in _COUNTS})
        return total

    def rows(self) -> list[dict[str, Any]]:
        """Return one dictionary for each account, sorted."""
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
        row = self._database.execute(
            f"SELECT {columns}, checksum FROM usage WHERE stage = ? AND round = ? AND client = ?", key
        ).fetchone()
        values = [float(getattr(usage, name)) for name in _COUNTS]
        if row is not None:
            _check((*key, *row[:-1]), row[-1])
            values = [old + new for old, new in zip(row[:-1], values, strict=True)]
        marks = ", ".join("?" * (len(key) + len(values) + 1))
        self._database.execute(
            f"INSERT OR REPLACE INTO usage (stage, round, client, {columns}, checksum) VALUES ({marks})",
            (*key, *values, _checksum((*key, *values))),
        )

    def _extend(self, table: str, columns: Mapping[str, str]) -> None:
        """Add the columns that a file of an earlier version lacks: it counts less, and its rows have no checksum."""
        present = {row[1] for row in self._database.execute(f"PRAGMA table_info({table})")}
        for name, kind in columns.items():
            if name not in present:
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
    """Raise FormatError if ``row`` differs from what was written; one of an earlier version has no checksum."""
    if seal is not None and _checksum(row) != seal:
        raise FormatError(f"the row of {row[0]!r} is not what was written")
