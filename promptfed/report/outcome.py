"""The results of a run as its observers get them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptfed.observers.base import RunOutcome
from promptfed.report.tables import result_rows


def run_outcome(metrics: Mapping[str, Any], report: Path | None = None) -> RunOutcome:
    """Return ``metrics`` with the table of results and the ``report``."""
    columns, rows = result_rows(metrics)
    return RunOutcome(metrics, ("method", *columns), tuple((row.label, *row.cells) for row in rows), report)
