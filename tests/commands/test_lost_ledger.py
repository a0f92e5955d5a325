"""A ledger that is gone, cut off or older than the event log frees no budget."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from promptfed.blackbox.oracles.ledger import OracleLedger
from promptfed.runs.events import EventLog


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test pays for itself."""
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def stopped(promptfed, stub_server, words, tmp_path):
    """A run that has used up its budget of 60 calls, and its server."""
    stub = stub_server()
    run = tmp_path / "run"
    assert promptfed("train", *words(stub), "--run", run, "--max-calls", "60").code == 3
    assert list(run.rglob("round-0001"))
    return run, stub


def _delete(run: Path) -> None:
    for path in run.glob("oracle.sqlite*"):
        path.unlink()


def _empty(run: Path) -> None:
    _delete(run)
    (run / "oracle.sqlite").write_bytes(b"")


def _drop_a_row(run: Path) -> None:
    with sqlite3.connect(run / "oracle.sqlite") as database:
        database.execute("DELETE FROM usage WHERE rowid = (SELECT MAX(rowid) FROM usage)")


@pytest.mark.parametrize("damage", [_delete, _empty, _drop_a_row])
def test_what_the_event_log_says_was_spent_still_counts(
    stopped: tuple[Path, object], damage: Callable[[Path], None], promptfed
) -> None:
    run, stub = stopped
    damage(run)
    said = promptfed("train", "--resume", run)
    assert said.code == 3, said.err
    words = " ".join(said.err.split())
    assert "is gone or lacks what events.jsonl says was spent" in words
    assert words.count("count against the budget") == 1
    assert len(stub.asked) == 60
    ledger = OracleLedger(run / "oracle.sqlite")
    assert ledger.total().oracle_calls == 60
    assert ledger.total("recovered").oracle_calls > 0
    said = promptfed("train", "--resume", run)
    assert said.code == 3
    assert "is gone or lacks" not in said.err, "it is said once"
    assert len(stub.asked) == 60


def test_without_ledger_and_log_it_is_refused_again_and_again(stopped, promptfed) -> None:
    run, stub = stopped
    _delete(run)
    (run / "events.jsonl").unlink()
    for _ in range(2):
        said = promptfed("train", "--resume", run)
        assert said.code == 2
        assert "what the run has spent is not known" in " ".join(said.err.split())
        assert said.err.count("error:") == 1
    assert len(stub.asked) == 60


def test_without_a_log_the_ledger_counts(stopped, promptfed) -> None:
    run, stub = stopped
    (run / "events.jsonl").unlink()
    assert promptfed("train", "--resume", run).code == 3
    assert len(stub.asked) == 60


def test_a_whole_ledger_is_left_alone(stopped, promptfed) -> None:
    run, _ = stopped
    said = promptfed("train", "--resume", run)
    assert "is gone or lacks" not in said.err
    assert OracleLedger(run / "oracle.sqlite").total("recovered").oracle_calls == 0
    spent = [event for event in EventLog(run / "events.jsonl").read() if event["event"] == "spent"]
    assert spent[-1]["oracle_calls"] == 60


def test_a_changed_row_stops_resume_and_report_in_one_line(stopped, promptfed) -> None:
    run, stub = stopped
    with sqlite3.connect(run / "oracle.sqlite") as database:
        database.execute("UPDATE usage SET oracle_calls = 1")
    for words in (("train", "--resume", run, "--max-calls", 99), ("report", run)):
        said = promptfed(*words)
        assert said.code == 2
        assert "is not what was written" in " ".join(said.err.split())
        assert said.err.count("error:") == 1
    assert len(stub.asked) == 60
