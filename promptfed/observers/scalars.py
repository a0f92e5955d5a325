"""The numbers of an event, by the names that all trackers show them under."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from promptfed.runs.events import Event
from promptfed.usage import ENCODER_CALLS, Usage

ROUND = ("loss", "accuracy", "val_accuracy", "bytes_up", "bytes_down", "seconds", "clients", "failed")
CLIENT = ("loss", "accuracy", "samples", "bytes_up", "bytes_down", "seconds", "start_seconds")
SUM = ("bytes_up", "bytes_down")
FEATURES = ("seconds", *ENCODER_CALLS)
TEST = {"local_mean": "local", "local_all": "local_all", "base": "base", "new": "new", "hm": "hm"}
"""Field of an evaluation -> the name below ``test/``."""
SPENT = tuple(field.name for field in fields(Usage) if field.name not in ENCODER_CALLS)
RUN = "run"
"""Stage of events that belong to no federation."""


@dataclass(frozen=True)
class Scalars:
    """Numbers of one moment.

    Attributes:
        stage: The federation that they belong to: the method's name, a baseline's, or ``run``.
        step: The round, from 1; 0 before the first one.
        time: Seconds since 1970.
        values: Name -> number. ``/`` divides names: ``loss``, ``client_0/loss``, ``test/base``.
    """

    stage: str
    step: int
    time: float
    values: Mapping[str, float]

    def named(self) -> dict[str, float]:
        """Return the values with the stage before each name: ``promptfl/loss``."""
        return {f"{self.stage}/{name}": value for name, value in self.values.items()}


class ScalarReader:
    """Reads events in their order. It adds up what was sent and what a black box was asked."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}
        self._totals: dict[str, dict[str, float]] = {}

    def read(self, event: Event) -> Scalars | None:
        """Return the numbers of ``event``, None if it has none. Numbers that are null are left out."""
        stage, kind = str(event.get("stage", RUN)), event["event"]
        self._add(stage, event, SPENT)
        if kind == "client":
            values = _numbers(event, CLIENT, f"client_{event['client']}/")
        elif kind == "sum":
            values = _numbers(event, SUM, f"client_{event['client']}/sum_")
        elif kind == "round":
            self._steps[stage] = event["round"]
            self._add(stage, {"bytes_total": (event.get("bytes_up") or 0) + (event.get("bytes_down") or 0)})
            values = _numbers(event, ROUND) | self._totals[stage]
        elif kind == "evaluation":
            values = _tests(event)
        elif kind == "features":
            values = _numbers(event, FEATURES, "features/")
        else:
            return None
        step = event["round"] if kind in ("client", "sum") else self._steps.get(stage, 0)
        return Scalars(stage, step, datetime.fromisoformat(event["time"]).timestamp(), values) if values else None

    def _add(self, stage: str, values: Mapping[str, Any], names: tuple[str, ...] = ()) -> None:
        totals = self._totals.setdefault(stage, {})
        for name, value in values.items():
            if isinstance(value, int | float) and (not names or name in names):
                totals[name] = totals.get(name, 0) + value


def _tests(event: Event) -> dict[str, float]:
    values = {f"test/{name}": event[field] for field, name in TEST.items() if _is_number(event.get(field))}
    for row in event.get("local") or ():
        values |= _numbers(row, ("accuracy", "all_classes"), f"client_{row['client']}/test_")
    domains = event.get("domains") or {}
    return values | {f"test/domain/{_plain(name)}": value for name, value in domains.items() if _is_number(value)}


def _numbers(values: Mapping[str, Any], names: tuple[str, ...], prefix: str = "") -> dict[str, float]:
    return {prefix + name: values[name] for name in names if _is_number(values.get(name))}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _plain(name: str) -> str:
    """Return ``name`` with only the characters that every tracker takes; names of domains come from data."""
    return re.sub(r"[^A-Za-z0-9_. -]", "_", name)
