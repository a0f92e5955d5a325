"""The event log: one valid JSON line an event, whatever happened to the writer before."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from promptfed.errors import RunError
from promptfed.runs import events
from promptfed.runs.events import EventLog


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events.jsonl")


def test_what_is_written_is_read(log: EventLog) -> None:
    assert log.read() == []
    log.write("client", stage="promptfl", round=1, client=3, loss=0.1 + 0.2)
    log.write("run_end", note="naïve 文")
    first, second = log.read()
    assert (first["event"], first["client"], first["loss"]) == ("client", 3, 0.1 + 0.2)
    assert second["note"] == "naïve 文"
    assert len(log.path.read_bytes().splitlines()) == 2


def test_time_is_now_in_utc(log: EventLog) -> None:
    log.write("run_start")
    time = datetime.fromisoformat(log.read()[0]["time"])
    assert time.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)


def test_nan_and_infinity_become_null_also_inside(log: EventLog) -> None:
    log.write("evaluation", base=float("nan"), local=[{"client": 0, "accuracy": float("inf")}], hm=(float("-inf"), 1.0))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    event = json.loads(log.path.read_text(), parse_constant=refuse)
    assert event["base"] is None
    assert event["local"] == [{"client": 0, "accuracy": None}]
    assert event["hm"] == [None, 1.0]


def test_torn_last_line_is_ignored_and_not_glued_to_the_next(log: EventLog) -> None:
    log.write("run_start")
    with log.path.open("ab") as file:
        file.write(b'{"event": "client", "lo')
    assert [event["event"] for event in log.read()] == ["run_start"]
    EventLog(log.path).write("resume")
    assert [event["event"] for event in log.read()] == ["run_start", "resume"]


def test_bad_line_in_the_middle_is_named(log: EventLog) -> None:
    log.write("run_start")
    with log.path.open("ab") as file:
        file.write(b"garbage\n")
    log.write("run_end")
    with pytest.raises(RunError, match=r"line 2 of .*events.jsonl is not JSON"):
        log.read()


def test_truncate_returns_to_a_noted_size(log: EventLog) -> None:
    assert log.size() == 0
    log.write("round", stage="promptfl", round=1)
    noted = log.size()
    assert noted == log.path.stat().st_size
    kept = log.path.read_bytes()
    log.write("client", stage="promptfl", round=2, client=0)
    log.truncate(noted)
    assert log.path.read_bytes() == kept
    log.write("round", stage="promptfl", round=2)
    assert [event["round"] for event in log.read()] == [1, 2]


def test_truncate_never_lengthens_and_leaves_whole_lines(log: EventLog) -> None:
    log.truncate(100)
    assert not log.path.exists()
    log.write("round", stage="promptfl", round=1)
    size = log.size()
    log.truncate(size + 50)
    assert log.size() == size
    log.truncate(size - 3)
    assert log.path.read_bytes() == b""


def test_what_is_not_json_is_a_type_error_and_writes_nothing(log: EventLog) -> None:
    with pytest.raises(TypeError):
        log.write("client", loss=object())
    assert log.read() == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"evens": "client", "time": "t"}', "does not say which event"),
        ('{"event": "round", "time": "t", "stagd": "promptfl", "round": 1}', "lacks its stage"),
        ('{"event": "round", "time": "t", "stage": "promptfl", "rounD": 1}', "lacks its round"),
        ('{"event": "client", "time": "t", "stage": "promptfl", "round": 1, "client": "0"}', "lacks its client"),
        ('{"event": "validation", "time": "t", "stage": "promptfl", "seconds": "0"}', "seconds that is no number"),
        ('{"event": "evaluation", "time": "t", "stage": "promptfl", "local": {}}', "no list of clients' scores"),
        ('{"event": "evaluation", "time": "t", "stage": "promptfl", "local": [{"cliEnt": 0}]}', "score that is none"),
        ('{"event": "run_end", "tine": "t"}', "lacks its time"),
    ],
)
def test_an_event_that_promptfed_never_writes_is_refused_by_its_line(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "run_start", "time": "t"}\n' + line + "\n")
    with pytest.raises(RunError, match=f"line 2 of {path} is not an event: it .*{problem}"):
        EventLog(path).read()


@pytest.mark.parametrize("length", [1, 7, 8, 9, 40])
def test_a_torn_line_is_found_from_the_end_of_a_log_of_any_length(tmp_path, monkeypatch, length):
    monkeypatch.setattr(events, "CHUNK", 8)
    for content in (b"a" * length, b"\n" + b"a" * length, b"a" * length + b"\n", b"a\n" * length + b"b" * length, b""):
        path = tmp_path / "events.jsonl"
        path.write_bytes(content)
        assert EventLog(path).size() == len(content[: content.rfind(b"\n") + 1])
        path.write_bytes(content)
        assert EventLog(path).sha256(len(content)) == hashlib.sha256(content).hexdigest()
        assert EventLog(path).sha256(len(content) + 1) == ""
