"""Queries to a black box and their cost: in a few words, and as the table of a run's ledger."""

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
    """Return ``"oracle 1,200 calls, 35 known, 0.0120 USD"``; without money where none was spent."""
    words = f"oracle {usage.oracle_calls:,} calls, {usage.oracle_cache_hits:,} known"
    if usage.oracle_retries:
        words += f", {usage.oracle_retries:,} retries"
    if usage.oracle_unanswered:
        words += f", {usage.oracle_unanswered:,} not answered"
    return words + (f", {usage.usd:.4f} USD" if usage.usd else "")


def not_answered_words(metrics: Mapping[str, Any]) -> str:
    """Return a line about ``not_answered`` in a run's metrics; empty if all was answered."""
    counts = metrics.get("not_answered") or {}
    parts = []
    if silent := counts.get("unanswered"):
        parts.append(
            f"{silent['answers']:,} of {silent['of']:,} answers said nothing of use ({next(iter(silent['why']))})"
        )
    if refusals := counts.get("left_out"):
        names = ", ".join(f"'{row['example']}'" for row in refusals["named"][:3])
        more = ", ..." if refusals["examples"] > 3 else ""
        parts.append(
            f"{refusals['examples']:,} of {refusals['of']:,} examples left out, as the oracle refused them: "
            f"{names}{more}"
        )
    return f"not answered, which counts as wrong: {'; '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class UsageTable:
    """``rows``: (label, cells under ``columns``), the last one the whole run; columns of zeros are left out."""

    columns: list[str]
    rows: list[tuple[str, list[str]]]


def usage_table(ledger: Iterable[Mapping[str, Any]], labels: Mapping[str, str]) -> UsageTable | None:
    """Return the rows of an oracle's ledger by stage, training apart from validation and test; None without queries.

    Args:
        ledger: Its rows. Queries outside a client's round count as validation and test.
        labels: Stage -> label.
    """
    sums: dict[tuple[str, str], Usage] = {}
    for row in ledger:
        key = row["stage"], TRAINING if row["round"] > 0 else OTHER
        sums[key] = sums.get(key, Usage()) + usage_of(row)
    order = list(labels)
    places = sorted(sums, key=lambda p: (order.index(p[0]) if p[0] in order else len(order), p[1] == OTHER))
    stage_names = {
        f"{labels.get(stage, stage or 'before the first stage')}, {kind}": sums[stage, kind] for stage, kind in places
    }
    return _table({**stage_names, "whole run": sum(sums.values(), Usage())})


def client_table(ledger: Iterable[Mapping[str, Any]], stage: str, names: Mapping[int, str]) -> UsageTable | None:
    """Return each client's queries in the training of ``stage``, over all rounds; None without any."""
    sums: dict[str, Usage] = {}
    for row in ledger:
        if row["stage"] == stage and row["client"] >= 0:
            name = names.get(row["client"], f"client {row['client']}")
            sums[name] = sums.get(name, Usage()) + usage_of(row)
    return _table({**sums, "all clients": sum(sums.values(), Usage())})


def usage_of(row: Mapping[str, Any]) -> Usage:
    """Return the usage in a row of a ledger, or in anything with its fields."""
    return Usage(**{f.name: row.get(f.name) or 0 for f in fields(Usage)})


def _table(sums: Mapping[str, Usage]) -> UsageTable | None:
    values_by_label = {label: _values(usage) for label, usage in sums.items()}
    visible = [index for index in range(len(COLUMNS)) if any(values[index] for values in values_by_label.values())]
    if not visible:
        return None
    rows = [(label, [_cell(values[index]) for index in visible]) for label, values in values_by_label.items()]
    return UsageTable([COLUMNS[index] for index in visible], rows)


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
