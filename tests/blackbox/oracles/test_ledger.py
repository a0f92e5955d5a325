"""The ledger knows what a run paid, also after a crash in the middle of a request."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading

import pytest

from promptfed.blackbox.oracles.budget import Budget, Limits
from promptfed.blackbox.oracles.ledger import LOST, Account, OracleLedger
from promptfed.errors import BudgetExhausted, RunError
from promptfed.usage import Usage

ONE = Usage(oracle_calls=1, prompt_tokens=10, usd=0.25)


def test_usage_adds_up_by_account(tmp_path):
    ledger = OracleLedger(tmp_path / "oracle.sqlite")
    ledger.add(Account("fedbpt", 1, 0), ONE)
    ledger.add(Account("fedbpt", 1, 0), ONE)
    ledger.add(Account("zero_shot"), ONE)
    ledger.add(Account("nobody"), Usage())
    again = OracleLedger(tmp_path / "oracle.sqlite")
    assert again.total() == ONE + ONE + ONE
    assert again.total("fedbpt") == Usage(oracle_calls=2, prompt_tokens=20, usd=0.5)
    assert [(r["stage"], r["round"], r["client"]) for r in again.rows()] == [("fedbpt", 1, 0), ("zero_shot", 0, -1)]


def test_threads_lose_nothing(tmp_path):
    ledger = OracleLedger(tmp_path / "oracle.sqlite")

    def work(client: int) -> None:
        for _ in range(50):
            ledger.add(Account("s", 1, client % 2), ONE)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.total().oracle_calls == 200


CRASH = """
import os, sys
from pathlib import Path
from promptfed.blackbox.oracles.budget import Budget, Limits
from promptfed.blackbox.oracles.ledger import Account, OracleLedger
from promptfed.usage import Usage
ledger = OracleLedger(Path(sys.argv[1]))
budget = Budget(Limits(calls=9))
budget.on_reserved = ledger.open
budget.on_settled = lambda reservation, used: ledger.settle(Account("s", 1, 0), reservation, used)
budget.settle(budget.reserve(tokens=30), Usage(oracle_calls=1, prompt_tokens=7))
budget.settle(budget.reserve(tokens=30), Usage())
budget.reserve(tokens=30, usd=0.5)
budget.reserve(tokens=40)
os._exit(9)
"""


def test_a_crash_between_reserving_and_settling_counts_as_spent_once(tmp_path):
    file = tmp_path / "oracle.sqlite"
    done = subprocess.run([sys.executable, "-P", "-c", CRASH, str(file)], check=False)
    assert done.returncode == 9
    ledger = OracleLedger(file)
    assert ledger.total() == Usage(oracle_calls=1, prompt_tokens=7)
    lost = Usage(oracle_calls=2, prompt_tokens=70, usd=0.5)
    assert ledger.reclaim() == lost
    assert ledger.reclaim() == Usage()
    assert ledger.total(LOST) == lost
    budget = Budget(Limits(calls=3), ledger.total())
    with pytest.raises(BudgetExhausted):
        budget.reserve()


def test_a_ledger_of_an_earlier_version_is_gone_on_with(tmp_path):
    file = tmp_path / "oracle.sqlite"
    old = sqlite3.connect(file)
    old.execute(
        "CREATE TABLE usage (stage TEXT, round INT, client INT, oracle_calls REAL NOT NULL DEFAULT 0, "
        "PRIMARY KEY (stage, round, client))"
    )
    old.execute("INSERT INTO usage VALUES ('s', 1, 2, 5)")
    old.commit()
    old.close()
    ledger = OracleLedger(file)
    ledger.add(Account("s", 1, 2), ONE)
    assert ledger.total() == Usage(oracle_calls=6, prompt_tokens=10, usd=0.25)


def test_a_damaged_ledger_is_not_begun_anew_in_silence(tmp_path):
    file = tmp_path / "oracle.sqlite"
    file.write_bytes(b"not a database at all, " * 100)
    with pytest.raises(RunError, match=r"oracle.sqlite.*not a database.*can be deleted: what events.jsonl says"):
        OracleLedger(file)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE usage SET oracle_calls = oracle_calls - 1 WHERE client = 1",
        "UPDATE usage SET usd = usd + 0.0000001 WHERE client = 0",
        "UPDATE usage SET client = 7 WHERE client = 1",
        "UPDATE usage SET stage = 'r' WHERE client = 0",
        "UPDATE usage SET prompt_tokens = 'many'",
        "UPDATE under_way SET calls = 0",
    ],
)
def test_a_changed_row_is_refused_in_one_line(tmp_path, change):
    file = tmp_path / "oracle.sqlite"
    ledger = OracleLedger(file)
    ledger.add(Account("s", 1, 0), ONE)
    ledger.add(Account("s", 1, 1), ONE)
    budget = Budget(Limits(calls=9))
    budget.on_reserved = ledger.open
    budget.reserve(tokens=30)
    ledger.close()
    with sqlite3.connect(file) as database:
        database.execute(change)
    again = OracleLedger(file)
    read = again.reclaim if "under_way" in change else again.rows
    with pytest.raises(RunError, match=r"oracle.sqlite.*is not what was written") as refused:
        read()
    assert "\n" not in str(refused.value)


def _write(file: str, client: int) -> None:
    from pathlib import Path

    ledger = OracleLedger(Path(file))
    for _ in range(30):
        ledger.add(Account("s", 1, client), ONE)
    os._exit(0)


def test_two_processes_may_write_at_once(tmp_path):
    file = tmp_path / "oracle.sqlite"
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=_write, args=(str(file), k % 2)) for k in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert OracleLedger(file).total().oracle_calls == 60
