"""The cost of a run, summed over its events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from promptfed.usage import Usage

PAID = ("features", "client", "sum", "validation", "selection", "evaluation")
"""Events that carry costs of their own; a ``round`` event repeats those of its clients."""


@dataclass(frozen=True)
class Cost(Usage):
    """Calls of the frozen model, and bytes as serialised; ``seconds`` of work, summed over clients."""

    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


def cost_of(events: Iterable[Mapping[str, Any]], stage: str | None = None) -> Cost:
    """Return the cost of one stage, or with None of the whole run.

    Features are computed once and shared by all stages, so they count for the run and for no stage.
    """
    total = Cost()
    for event in events:
        if event.get("event") in PAID and (stage is None or event.get("stage") == stage):
            total += Cost(**{f.name: event.get(f.name) or 0 for f in fields(Cost)})
    return total


def query_curve(events: Iterable[Mapping[str, Any]], stage: str) -> list[tuple[int, float]]:
    """Return (queries so far, mean validation accuracy) after each validated round of ``stage``.

    Queries are those of training, all clients together. The list is empty without a black box.
    """
    queries, points = 0, []
    for event in events:
        if event.get("stage") != stage:
            continue
        if event["event"] == "client":
            queries += event.get("oracle_queries") or 0
        elif event["event"] == "round" and event.get("val_accuracy") is not None:
            points.append((queries, float(event["val_accuracy"])))
    return points if queries else []
