"""What a run cost, added up from its events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from promptfed.usage import Usage

PAID = ("features", "client", "validation", "selection", "evaluation")
"""Events that carry costs of their own; a ``round`` event repeats those of its clients."""


@dataclass(frozen=True)
class Cost(Usage):
    """What the frozen model was asked, and bytes as serialised; ``seconds`` of work, summed over clients."""

    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


def cost_of(events: Iterable[Mapping[str, Any]], stage: str | None = None) -> Cost:
    """The cost of one stage, or with None of the whole run.

    Features are computed once and shared by all stages, so they count for the run but for no stage of it.
    """
    total = Cost()
    for event in events:
        if event.get("event") in PAID and (stage is None or event.get("stage") == stage):
            total += Cost(**{f.name: event.get(f.name) or 0 for f in fields(Cost)})
    return total


def query_curve(events: Iterable[Mapping[str, Any]], stage: str) -> list[tuple[int, float]]:
    """(queries that the training of ``stage`` had made by then, all clients together; mean validation accuracy) after
    each round that was validated; empty where no black box was asked."""
    asked, points = 0, []
    for event in events:
        if event.get("stage") != stage:
            continue
        if event["event"] == "client":
            asked += event.get("oracle_queries") or 0
        elif event["event"] == "round" and event.get("val_accuracy") is not None:
            points.append((asked, float(event["val_accuracy"])))
    return points if asked else []
