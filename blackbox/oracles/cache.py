"""Cache of answers: a SQLite file of JSON by the SHA-256 of the canonical request."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from promptfed.blackbox.oracles.database import connect, patiently
from promptfed.blackbox.oracles.query import OracleAnswer
from promptfed.cache_dir import cache_folder

log = logging.getLogger(__name__)
MOST_NAMES = 500
"""Keys looked up by one statement; SQLite allows 999 parameters everywhere."""
RECENT = 50_000
"""Answers kept in memory beside the file: some 20 MB of label scores."""
TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT, checksum TEXT) WITHOUT ROWID"

INSERT = "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)"


class AnswerCache:
    """Answers by key, in ``file``; None: in a private temporary one, deleted at the end.

    Processes and threads may share a file; a key that is there keeps its first answer. The latest ``recent`` stay in
    memory too.

    A cache never stops a run: a damaged file is moved aside and begun anew, and the run goes on without one that cannot
    be written; the log says so.
    """

    def __init__(self, file: Path | None, recent: int = RECENT) -> None:
        self.file, self.recent = file, recent
        self._memory: OrderedDict[str, OracleAnswer] = OrderedDict()
        self._lock = threading.Lock()
        self._warned = False
        self._database = self._opened()

    def get(self, keys: Iterable[str]) -> dict[str, OracleAnswer]:
        """Return the answers to ``keys``, as far as there are any."""
        distinct = list(dict.fromkeys(keys))
        with self._lock:
            answers = {key: self._memory[key] for key in distinct if key in self._memory}
            lacking = [key for key in distinct if key not in answers]
            for start in range(0, len(lacking), MOST_NAMES):
                answers |= self._read(lacking[start : start + MOST_NAMES])
            self._remember(answers)
            return {key: answers[key] for key in distinct if key in answers}

    def put(self, answers: Mapping[str, OracleAnswer]) -> None:
        """Store ``answers``; a key that is there already keeps its answer."""
        if not answers:
            return
        with self._lock:
            self._remember({key: answer for key, answer in answers.items() if key not in self._memory})
            rows = [_row(key, answer) for key, answer in answers.items()]
            try:
                self._write(INSERT, rows)
            except sqlite3.OperationalError as error:  # disk full, read-only, locked for a minute
                self._warn(f"cannot keep answers of the oracle in '{self.file}': {error}; they last for this run only")
            except sqlite3.DatabaseError as error:
                self._replace(error)
                self._write(INSERT, rows)

    def forget(self, keys: Iterable[str]) -> None:
        """Delete the answers to ``keys``."""
        names = [(key,) for key in keys]
        with self._lock:
            for (key,) in names:
                self._memory.pop(key, None)
            with suppress(sqlite3.OperationalError):
                self._write("DELETE FROM answers WHERE key = ?", names)

    def close(self) -> None:
        self._database.close()

    # ------------------------------------------------------------------------------------------------ the file

    def _read(self, keys: Sequence[str]) -> dict[str, OracleAnswer]:
        marks = ",".join("?" * len(keys))
        try:
            rows = self._database.execute(
                f"SELECT key, answer, checksum FROM answers WHERE key IN ({marks})", list(keys)
            ).fetchall()
        except sqlite3.OperationalError as error:
            self._warn(f"cannot read answers of the oracle from '{self.file}': {error}; asking anew")
            return {}
        except sqlite3.DatabaseError as error:
            self._replace(error)
            return {}
        answers, bad = {}, []
        for key, text, checksum in rows:
            try:
                if _checksum(key, text) != checksum:
                    raise ValueError("another checksum")
                answers[key] = OracleAnswer.from_json(text)
            except (ValueError, TypeError, KeyError):
                bad.append((key,))
        if bad:
            log.warning("%d answers in '%s' are damaged; they are dropped and asked for anew", len(bad), self.file)
            with suppress(sqlite3.OperationalError):
                self._write("DELETE FROM answers WHERE key = ?", bad)
        return answers

    def _write(self, statement: str, rows: Sequence[tuple[str, ...]]) -> None:
        patiently(lambda: self._database.execute("BEGIN IMMEDIATE"), self.file)
        try:
            self._database.executemany(statement, rows)
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _remember(self, answers: Mapping[str, OracleAnswer]) -> None:
        for key, answer in answers.items():
            self._memory[key] = answer
            self._memory.move_to_end(key)
        while len(self._memory) > self.recent:
            self._memory.popitem(last=False)

    def _opened(self) -> sqlite3.Connection:
        if self.file is not None:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                return self._connected(self.file)
            except (OSError, sqlite3.OperationalError) as error:
                self._warn(f"cannot open the oracle's cache '{self.file}': {error}; answers last for this run only")
                self.file = None
            except sqlite3.DatabaseError as error:
                return self._moved_aside(self.file, error)
        return self._connected("")  # SQLite's own temporary file, deleted when it is closed

    def _connected(self, file: Path | str) -> sqlite3.Connection:
        database = connect(file)
        try:
            for attempt in range(100):
                try:
                    patiently(lambda: database.execute("PRAGMA journal_mode=WAL"), file)
                    break
                except sqlite3.OperationalError:  # SQLite does not wait for processes that switch at the same time
                    if attempt == 99:
                        raise
                    time.sleep(0.02)
            database.execute("PRAGMA synchronous=NORMAL")
            patiently(lambda: database.execute(TABLE), file)
            if len(database.execute("PRAGMA table_info(answers)").fetchall()) < 3:  # of an earlier version, unchecked
                patiently(lambda: database.execute("ALTER TABLE answers ADD COLUMN checksum TEXT"), file)
                database.execute("DELETE FROM answers")
            database.execute("SELECT key, answer FROM answers LIMIT 1").fetchall()
        except BaseException:
            database.close()
            raise
        return database

    def _replace(self, error: sqlite3.DatabaseError) -> None:
        self._database.close()
        self._database = self._connected("") if self.file is None else self._moved_aside(self.file, error)

    def _moved_aside(self, file: Path, error: sqlite3.DatabaseError) -> sqlite3.Connection:
        aside = file.with_name(f"{file.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        log.warning("the oracle's cache '%s' is damaged (%s); moved to '%s', begun anew", file, error, aside.name)
        for ending in ("", "-wal", "-shm"):
            part = file.with_name(file.name + ending)
            if part.exists():
                part.replace(aside.with_name(aside.name + ending))
        return self._connected(file)

    def _warn(self, message: str) -> None:
        if not self._warned:
            log.warning(message)
        self._warned = True


def _row(key: str, answer: OracleAnswer) -> tuple[str, str, str]:
    text = answer.to_json()
    return key, text, _checksum(key, text)


def _checksum(key: object, text: object) -> str:
    return hashlib.sha256(f"{key}\n{text}".encode(errors="surrogatepass")).hexdigest()[:32]


def default_cache() -> AnswerCache:
    """Return the cache of answers in PROMPTFED_CACHE (else the user's cache folder)."""
    return AnswerCache(cache_folder() / "oracle" / "answers.sqlite")
