"""What a black box was asked and what that cost: in a few words, and as the table of a run's ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from promptfed.usage import Usage

COLUMNS = ("queries", "calls", "known", "retries", "floored", "not answered", "tokens in", "tokens out", "USD")
CAPTION = (
    "Queries: answers asked for, a prompt on an example each; calls: requests that really went to the oracle; known: "
    "answers that were there already and cost nothing; floored: scores of label words that the oracle did not report; "
    "not answered: answers that were refused or said nothing of use, which count as wrong. Work that was lost with an "
    "interruption is counted too."
)
TRAINING, OTHER = "training", "validation and test"


def asked_words(usage: Usage) -> str:
    """``"oracle 1,200 calls, 35 known, 0.0120 USD"``; nothing about money where none was spent."""
    words = f"oracle {usage.oracle_calls:,} calls, {usage.oracle_cache_hits:,} known"
    if usage.oracle_retries:
        words += f", {usage.oracle_retries:,} retries"
    if usage.oracle_unanswered:
        words += f", {usage.oracle_unanswered:,} not answered"
    return words + (f", {usage.usd:.4f} USD" if usage.usd else "")


def not_answered_words(metrics: Mapping[str, Any]) -> str:
    """What the ``not_answered`` of a run's metrics says, in one line; empty if all was answered."""
    found = metrics.get("not_answered") or {}
    said = []
    if silent := found.get("unanswered"):
        said.append(
            f"{silent['answers']:,} of {silent['of']:,} answers said nothing of use ({next(iter(silent['why']))})"
        )
    if left := found.get("left_out"):
        names = ", ".join(f"'{row['example']}'" for row in left["named"][:3])
        more = ", ..." if left["examples"] > 3 else ""
        said.append(
            f"{left['examples']:,} of {left['of']:,} examples left out, as the oracle refused them: {names}{more}"
        )
    return f"not answered, which counts as wrong: {'; '.join(said)}" if said else ""


@dataclass(frozen=True)
class UsageTable:
    """``rows``: (label, cells under ``columns``), the last one the whole run; columns of zeros are left out."""

    columns: list[str]
    rows: list[tuple[str, list[str]]]


def usage_table(ledger: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> UsageTable | None:
    """The rows of an oracle's ledger by stage, training apart from validation and test; None if nothing was asked.

    ``labels``: stage -> what it is called. What a stage asked in no round of a client counts as validation and test.
    """
    sums: dict[tuple[str, str], Usage] = {}
    for row in ledger:
        place = row["stage"], TRAINING if row["round"] > 0 else OTHER
        sums[place] = sums.get(place, Usage()) + usage_of(row)
    order = list(labels)
    places = sorted(sums, key=lambda p: (order.index(p[0]) if p[0] in order else len(order), p[1] == OTHER))
    named = {
        f"{labels.get(stage, stage or 'before the first stage')}, {kind}": sums[stage, kind] for stage, kind in places
    }
    return _table({**named, "whole run": sum(sums.values(), Usage())})


def client_table(ledger: Iterable[Mapping[str, Any]], stage: str, names: Mapping[int, str]) -> UsageTable | None:
    """What each client asked in the training of ``stage``, over all rounds; None if the ledger does not know."""
    sums: dict[str, Usage] = {}
    for row in ledger:
        if row["stage"] == stage and row["client"] >= 0:
            name = names.get(row["client"], f"client {row['client']}")
            sums[name] = sums.get(name, Usage()) + usage_of(row)
    return _table({**sums, "all clients": sum(sums.values(), Usage())})


def usage_of(row: Mapping[str, Any]) -> Usage:
    """The usage in a row of a ledger, or in anything with its fields."""
    return Usage(**{f.name: row.get(f.name) or 0 for f in fields(Usage)})


def _table(sums: Mapping[str, Usage]) -> UsageTable | None:
    found = {label: _values(usage) for label, usage in sums.items()}
    shown = [place for place in range(len(COLUMNS)) if any(values[place] for values in found.values())]
    if not shown:
        return None
    rows = [(label, [_cell(values[place]) for place in shown]) for label, values in found.items()]
    return UsageTable([COLUMNS[place] for place in shown], rows)


def _values(usage: Usage) -> tuple[float, ...]:
    counts = (usage.oracle_queries, usage.oracle_calls, usage.oracle_cache_hits, usage.oracle_retries)
    return (
        *counts,
        usage.labels_floored,
        usage.oracle_unanswered,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.usd,
    )


def _cell(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
