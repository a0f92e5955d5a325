"""Who asked a black box for how much: one row for every stage, round and client, in the run directory.

It is written as requests are settled, so that a run that was killed still knows what it paid.
"""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from promptfed.usage import Usage

FILE = "oracle.sqlite"


@dataclass(frozen=True)
class Account:
    """Whose requests they are; round 0 and client -1: nobody's in particular (tests, validation)."""

    stage: str = ""
    round: int = 0
    client: int = -1


class OracleLedger:
    """Usage by account, in ``file`` (None: in memory only). Safe for threads."""

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            ":memory:" if file is None else file, timeout=60, check_same_thread=False, isolation_level=None
        )
        columns = ", ".join(f"{f.name} REAL NOT NULL DEFAULT 0" for f in fields(Usage))
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute(
            f"CREATE TABLE IF NOT EXISTS usage (stage TEXT, round INT, client INT, {columns}, "
            "PRIMARY KEY (stage, round, client))"
        )

    def add(self, account: Account, usage: Usage) -> None:
        """Add ``usage`` to what ``account`` has."""
        values = asdict(usage)
        names = ", ".join(values)
        sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in values)
        marks = ", ".join("?" * (3 + len(values)))
        with self._lock:
            self._database.execute(
                f"INSERT INTO usage (stage, round, client, {names}) VALUES ({marks}) "
                f"ON CONFLICT (stage, round, client) DO UPDATE SET {sums}",
                (account.stage, account.round, account.client, *values.values()),
            )

    def total(self, stage: str | None = None) -> Usage:
        """All that one stage, or with None the run, has used."""
        total = Usage()
        for row in self.rows():
            if stage is None or row["stage"] == stage:
                total += Usage(**{f.name: row[f.name] for f in fields(Usage)})
        return total

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary an account, sorted."""
        with self._lock:
            cursor = self._database.execute("SELECT * FROM usage ORDER BY stage, round, client")
            names = [column[0] for column in cursor.description]
            found = [dict(zip(names, row, strict=True)) for row in cursor]
        return [{n: v if n in ("stage", "usd") else int(v) for n, v in row.items()} for row in found]

    def close(self) -> None:
        self._database.close()
