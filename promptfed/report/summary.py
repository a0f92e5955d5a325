"""One run in a few words, for lists of runs."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from promptfed.errors import PromptFedError
from promptfed.files.processes import is_held
from promptfed.readers.content import expected_content
from promptfed.runs.checkpoint import newest_round
from promptfed.runs.directory import LOCK, RunDirectory
from promptfed.runs.passport import check_metrics

FIGURES = ("local", "base", "new", "hm")
RECENT = 120.0
"""Seconds after the last change of a run's files in which it may still be at work."""


def run_summary(path: Path) -> dict[str, Any]:
    """Return name, method, data, model, round (of rounds) and state; of a finished run also local, base, new, hm.

    ``model`` is the backbone or the oracle. ``updated`` is the time of the last change, in seconds since 1970.
    ``state`` is "finished", "unfinished" or "damaged: why", so that one bad run does not hide the others of a list.
    ``status`` is "running", "finished", "stopped" or "damaged".
    """
    about: dict[str, Any] = dict.fromkeys(("method", "data", "model", "round", "rounds", "state", "updated", *FIGURES))
    about["updated"], about["status"] = _last_change(path), "damaged"
    try:
        run = RunDirectory.open(path)
        about |= {"method": run.config.method, "data": run.config.data}
        about["model"] = run.config.oracle or run.config.backbone
        about["rounds"] = run.config.rounds
        about["round"] = newest_round(run.stage_folder(run.config.method, is_baseline=False))
        check_metrics(run)
        metrics = run.read_metrics()
        with expected_content("its metrics"):
            figures = (metrics or {}).get("method") or {}
            about |= {name: _figure(figures.get(name)) for name in FIGURES}
        about["state"] = "finished" if metrics else "unfinished"
        about["status"] = "finished" if metrics else "running" if _is_running(path, about["updated"]) else "stopped"
    except PromptFedError as error:
        about["state"] = f"damaged: {error}"
    return {"name": path.resolve().name, **about}


def _is_running(path: Path, updated: float | None) -> bool:
    """Return whether a process works on the run; where the system does not tell, whether a file changed of late."""
    held = is_held(path / LOCK)
    return time.time() - (updated or 0.0) < RECENT if held is None else held


def _figure(value: Any) -> float | None:
    """Return ``value`` as a figure.

    Raises:
        TypeError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, float | int | None):
        raise TypeError(f"a figure is a {type(value).__name__}")
    return value


def _last_change(path: Path) -> float | None:
    """Return the time of the newest change of a run's files; None if there are none."""
    times = []
    for name in ("config.yaml", "events.jsonl", "metrics.json"):
        with suppress(OSError):
            times.append((path / name).stat().st_mtime)
    return max(times, default=None)
