"""What a black box was asked, as words and as tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from promptfed.blackbox.oracles.ledger import Account, OracleLedger
from promptfed.report.oracle_usage import asked_words, client_table, usage_table
from promptfed.usage import Usage

LABELS = {"zero_shot": "zero-shot", "fedbpt": "FedBPT"}


def ledger(tmp_path: Path, **more: float) -> OracleLedger:
    found = OracleLedger(tmp_path / "oracle.sqlite")
    for round in (1, 2):
        for client in (0, 1):
            account = Account("fedbpt", round, client)
            asked = Usage(oracle_queries=100, oracle_calls=90 + client, oracle_cache_hits=10 - client)
            found.add(account, replace(asked, **more))  # type: ignore[arg-type]
    found.add(Account("fedbpt"), Usage(oracle_queries=30, oracle_cache_hits=30))
    found.add(Account("zero_shot", 1, 0), Usage(oracle_queries=8, oracle_calls=8))
    return found


def test_training_stands_apart_by_stage_in_the_order_of_the_run(tmp_path: Path) -> None:
    table = usage_table(ledger(tmp_path).rows(), LABELS)
    assert table is not None
    assert table.columns == ["queries", "calls", "known"]
    assert table.rows == [
        ("zero-shot, training", ["8", "8", "0"]),
        ("FedBPT, training", ["400", "362", "38"]),
        ("FedBPT, validation and test", ["30", "0", "30"]),
        ("whole run", ["438", "370", "68"]),
    ]


def test_tokens_and_money_are_shown_where_there_are_any(tmp_path: Path) -> None:
    table = usage_table(ledger(tmp_path, prompt_tokens=1000, usd=0.25).rows(), LABELS)
    assert table is not None
    assert table.columns == ["queries", "calls", "known", "tokens in", "USD"]
    assert table.rows[-1] == ("whole run", ["438", "370", "68", "4,000", "1.0000"])


def test_clients_are_those_of_the_methods_training(tmp_path: Path) -> None:
    table = client_table(ledger(tmp_path).rows(), "fedbpt", {0: "house 0"})
    assert table is not None
    assert table.rows == [
        ("house 0", ["200", "180", "20"]),
        ("client 1", ["200", "182", "18"]),
        ("all clients", ["400", "362", "38"]),
    ]


def test_nothing_asked_is_no_table() -> None:
    assert usage_table([], LABELS) is None
    assert client_table([], "fedbpt", {}) is None
    assert asked_words(Usage(oracle_calls=1234, oracle_cache_hits=5)) == "oracle 1,234 calls, 5 known"
