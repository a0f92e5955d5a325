"""The stages of a run in its charts: names, colours, dashes and markers that are the same everywhere in a report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from promptfed.report.charts.look import BASELINES, Look, method_look


@dataclass(frozen=True)
class Stage:
    """A stage's ``label``, which is the name in its evaluation, and its ``look``."""

    label: str
    look: Look


def run_stages(events: Iterable[Mapping[str, Any]]) -> dict[str, Stage]:
    """Return every stage of the log, in order of appearance."""
    names: dict[str, str] = {}
    for event in events:
        if stage := event.get("stage"):
            name = names.get(stage, stage.replace("_", "-"))
            names[stage] = event.get("name") or name if event["event"] == "evaluation" else name
    free = count()
    return {stage: Stage(label, BASELINES.get(stage) or method_look(next(free))) for stage, label in names.items()}
