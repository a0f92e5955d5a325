"""One run in a few words, for lists of runs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from promptfed.errors import PromptFedError
from promptfed.readers.content import expected_content
from promptfed.runs.checkpoint import newest_round
from promptfed.runs.directory import RunDirectory
from promptfed.runs.passport import check_metrics

FIGURES = ("local", "base", "new", "hm")


def run_summary(path: Path) -> dict[str, Any]:
    """Return name, method, data, model, round (of rounds) and state; of a finished run also local, base, new, hm.

    ``model`` is the backbone or the oracle. ``updated`` is the time of the last change, in seconds since 1970.
    ``state`` is "finished", "unfinished" or "damaged: why", so that one bad run does not hide the others of a list.
    """
    about: dict[str, Any] = dict.fromkeys(("method", "data", "model", "round", "rounds", "state", "updated", *FIGURES))
    about["updated"] = _last_change(path)
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
    except PromptFedError as error:
        about["state"] = f"damaged: {error}"
    return {"name": path.resolve().name, **about}


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
