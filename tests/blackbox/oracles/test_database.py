"""The oracle's files are their owner's from the start, and a wait for a lock says who holds it."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from promptfed.blackbox.oracles import database
from promptfed.blackbox.oracles.cache import AnswerCache
from promptfed.blackbox.oracles.ledger import Account, OracleLedger
from promptfed.blackbox.oracles.query import OracleAnswer
from promptfed.usage import Usage


@pytest.fixture
def loose_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["cache", "ledger", "old and open to all"])
def test_files_are_for_their_owner_alone(tmp_path, loose_umask, kind):
    file = tmp_path / "x.sqlite"
    if kind != "cache":
        ledger = OracleLedger(file)
        ledger.add(Account(), Usage(oracle_calls=1))
        if kind != "ledger":
            for path in tmp_path.iterdir():
                path.chmod(0o644)
            OracleLedger(file).add(Account(), Usage(oracle_calls=1))
    else:
        AnswerCache(file).put({"a": OracleAnswer(text="x")})
    assert len(modes(tmp_path)) > 1
    assert set(modes(tmp_path).values()) == {0o600}


def test_a_file_is_private_before_sqlite_touches_it(tmp_path, loose_umask, monkeypatch):
    seen = []
    monkeypatch.setattr(database.sqlite3, "connect", lambda file, **_: seen.append(modes(tmp_path)))
    database.connect(tmp_path / "x.sqlite")
    assert seen == [{"x.sqlite": 0o600}]


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "x.sqlite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        database.connect(tmp_path / "x.sqlite")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux tells who holds a lock")
def test_who_holds_a_lock_is_said(tmp_path, monkeypatch, caplog):
    file = tmp_path / "answers.sqlite"
    cache = AnswerCache(file)
    code = (
        "import sqlite3, sys\nd = sqlite3.connect(sys.argv[1], isolation_level=None)\nd.execute('BEGIN IMMEDIATE')\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        cache._database.execute("PRAGMA busy_timeout=50")
        monkeypatch.setattr(database, "LONGEST_WAIT", 0.2)
        cache.put({"a": OracleAnswer(text="x")})
        assert f"is locked by process {holder.pid} (python" in caplog.text
        assert cache.get(["a"])["a"].text == "x"
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("row", range(0, 12, 3))
def test_a_damaged_answer_is_asked_again(tmp_path, caplog, row):
    """One changed character anywhere in an answer, its key or its checksum."""
    file = tmp_path / "answers.sqlite"
    kept = {f"key{n}": OracleAnswer(scores=(n / 7, -1.5), prompt_tokens=n) for n in range(12)}
    cache = AnswerCache(file)
    cache.put(kept)
    cache.close()
    name = f"key{row}"
    connection = sqlite3.connect(file)
    [(text,)] = connection.execute("SELECT answer FROM answers WHERE key = ?", (name,))
    place = text.index("-1.5") + 1
    connection.execute("UPDATE answers SET answer = ? WHERE key = ?", (text[:place] + "3" + text[place + 1 :], name))
    connection.commit()
    connection.close()
    found = AnswerCache(file).get(kept)
    assert found == {key: answer for key, answer in kept.items() if key != name}
    assert "1 answers in" in caplog.text


@pytest.mark.parametrize("seed", range(3))
def test_no_flipped_bit_changes_an_answer(tmp_path, seed):
    file = tmp_path / "answers.sqlite"
    kept = {f"key{n}": OracleAnswer(scores=(n / 7, -1.5)) for n in range(8)}
    cache = AnswerCache(file)
    cache.put(kept)
    cache._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    cache.close()
    whole = file.read_bytes()
    for number in range(30):
        place = (seed * 7919 + number * 104729) % (8 * len(whole))
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        other = tmp_path / f"{seed}-{number}.sqlite"
        other.write_bytes(damaged)
        assert AnswerCache(other).get(kept).items() <= kept.items()
