"""Answers are kept for good: by several processes at once, as JSON, and a damaged file costs no run."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sqlite3
import threading
from pathlib import Path

import pytest

from promptfed.blackbox.oracles.cache import AnswerCache
from promptfed.blackbox.oracles.query import OracleAnswer


def answer(number: int) -> OracleAnswer:
    return OracleAnswer(scores=(float(number), -0.5), prompt_tokens=number)


def test_answers_come_back_whole(tmp_path):
    file = tmp_path / "deep" / "answers.sqlite"
    kept = {"a": answer(1), "b": OracleAnswer(text='é\n"x"', tokens=("one", "two"), floored=2)}
    AnswerCache(file).put(kept)
    assert AnswerCache(file).get(["b", "none", "a", "a"]) == kept


def test_a_key_that_is_there_keeps_its_answer(tmp_path):
    file = tmp_path / "answers.sqlite"
    first, second = AnswerCache(file), AnswerCache(file)
    first.put({"a": answer(1)})
    first.put({"a": answer(2)})
    second.put({"a": answer(3), "b": answer(4)})
    assert AnswerCache(file).get(["a", "b"]) == {"a": answer(1), "b": answer(4)}
    assert first.get(["a"]) == {"a": answer(1)}


def test_what_is_forgotten_is_gone(tmp_path):
    cache = AnswerCache(tmp_path / "answers.sqlite")
    cache.put({"a": answer(1), "b": answer(2)})
    cache.forget(["a", "none"])
    assert cache.get(["a", "b"]) == {"b": answer(2)} == AnswerCache(tmp_path / "answers.sqlite").get(["a", "b"])


@pytest.mark.parametrize("file", ["answers.sqlite", None])
def test_memory_is_bounded_and_nothing_is_lost(tmp_path, file):
    cache = AnswerCache(tmp_path / file if file else None, recent=100)
    for start in range(0, 2000, 50):
        cache.put({f"k{n}": answer(n) for n in range(start, start + 50)})
    assert len(cache._memory) <= 100
    assert cache.get([f"k{n}" for n in range(2000)]) == {f"k{n}": answer(n) for n in range(2000)}
    assert len(cache._memory) <= 100


def test_only_json_is_in_the_file(tmp_path):
    file = tmp_path / "answers.sqlite"
    AnswerCache(file).put({"a": answer(1)})
    rows = sqlite3.connect(file).execute("SELECT key, answer FROM answers").fetchall()
    assert [(key, json.loads(text)["scores"]) for key, text in rows] == [("a", [1.0, -0.5])]
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(rows[0][1].encode())


def _write(file: str, start: int) -> None:
    cache = AnswerCache(Path(file))
    for number in range(start, start + 120):
        cache.put({f"k{number}": answer(number)})
    os._exit(0 if len(cache.get([f"k{n}" for n in range(start, start + 120)])) == 120 else 1)


def test_processes_write_the_same_file_at_once(tmp_path):
    file = tmp_path / "answers.sqlite"
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=_write, args=(str(file), 60 * k)) for k in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(AnswerCache(file).get([f"k{n}" for n in range(240)])) == 240


def test_threads_share_one(tmp_path):
    cache = AnswerCache(tmp_path / "answers.sqlite", recent=20)
    faults: list[Exception] = []

    def work(start: int) -> None:
        try:
            for number in range(start, start + 60):
                cache.put({f"k{number}": answer(number)})
                assert cache.get([f"k{number}"]) == {f"k{number}": answer(number)}
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(30 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


@pytest.mark.parametrize("content", [b"this is not a database " * 300, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_moved_aside(tmp_path, caplog, content):
    file = tmp_path / "answers.sqlite"
    file.write_bytes(content)
    cache = AnswerCache(file)
    cache.put({"a": answer(1)})
    assert AnswerCache(file).get(["a"]) == {"a": answer(1)}
    [aside] = [path for path in tmp_path.iterdir() if ".damaged-" in path.name]
    assert aside.read_bytes() == content
    assert "damaged" in caplog.text


def test_a_file_that_is_damaged_while_in_use_costs_its_answers_only(tmp_path, caplog):
    file = tmp_path / "answers.sqlite"
    cache = AnswerCache(file, recent=1)
    cache.put({f"k{n}": OracleAnswer(text="x" * 500) for n in range(400)})
    cache.close()
    data = bytearray(file.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    file.write_bytes(data)
    cache = AnswerCache(file)
    cache.get([f"k{n}" for n in range(400)])
    cache.put({"new": answer(1)})
    assert cache.get(["new"]) == {"new": answer(1)}
    assert "damaged" in caplog.text


def test_a_damaged_answer_is_asked_for_anew(tmp_path, caplog):
    file = tmp_path / "answers.sqlite"
    AnswerCache(file).put({"a": answer(1), "b": answer(2), "c": answer(3)})
    database = sqlite3.connect(file)
    database.execute("UPDATE answers SET answer = '{\"scores\": [1.0' WHERE key = 'a'")
    database.execute("UPDATE answers SET answer = '[3]' WHERE key = 'b'")
    database.commit()
    database.close()
    cache = AnswerCache(file)
    assert cache.get(["a", "b", "c"]) == {"c": answer(3)}
    cache.put({"a": answer(7)})
    assert AnswerCache(file).get(["a"]) == {"a": answer(7)}
    assert "2 answers" in caplog.text


def test_a_place_that_cannot_be_written_is_done_without(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = AnswerCache(tmp_path / "file" / "answers.sqlite")
    cache.put({"a": answer(1)})
    assert cache.get(["a"]) == {"a": answer(1)}
    assert "for this run only" in caplog.text
