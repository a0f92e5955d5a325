"""Answers that were paid for once: a SQLite file of JSON by the SHA-256 of the canonical request."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from promptfed.blackbox.candidate import Answer
from promptfed.tasks.sources.readable import cache_folder

MOST_NAMES = 500
"""Keys looked up by one statement; SQLite allows 999 parameters everywhere."""


class AnswerCache:
    """Answers by key, in memory and in ``file`` (None: in memory only). Processes and threads may share a file."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._memory: dict[str, Answer] = {}
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(file, timeout=60, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT) WITHOUT ROWID"
            )

    def get(self, keys: Iterable[str]) -> dict[str, Answer]:
        """The answers that are known to some of ``keys``."""
        wanted = list(dict.fromkeys(keys))
        with self._lock:
            lacking = [key for key in wanted if key not in self._memory]
            if self._database is not None:
                for start in range(0, len(lacking), MOST_NAMES):
                    some = lacking[start : start + MOST_NAMES]
                    marks = ",".join("?" * len(some))
                    rows = self._database.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", some)
                    self._memory.update({key: Answer.from_json(answer) for key, answer in rows})
            return {key: self._memory[key] for key in wanted if key in self._memory}

    def put(self, answers: Mapping[str, Answer]) -> None:
        """Keep ``answers``; a key that is there already keeps what it has."""
        with self._lock:
            for key, answer in answers.items():
                self._memory.setdefault(key, answer)
            if self._database is not None and answers:
                rows = [(key, answer.to_json()) for key, answer in answers.items()]
                self._database.execute("BEGIN")
                self._database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
                self._database.execute("COMMIT")


def default_cache() -> AnswerCache:
    """The answers kept in PROMPTFED_CACHE (else the user's cache folder)."""
    return AnswerCache(cache_folder() / "oracle" / "answers.sqlite")
