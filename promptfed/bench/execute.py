"""A suite is run: its comparisons one after the other or side by side, each in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from promptfed.bench.entry_result import Terms, entry_result
from promptfed.bench.side_by_side import side_by_side
from promptfed.bench.suite import Entry, Suite
from promptfed.engines.base import never
from promptfed.files.atomic import write_text
from promptfed.progress import ComparisonProgress
from promptfed.threads import available_cpus

RESULTS = "bench.json"


def run_suite(
    name: str,
    suite: Suite,
    folder: Path,
    progress: ComparisonProgress,
    *,
    seeds: int | None = None,
    only: str | None = None,
    jobs: int | None = None,
    data_root: str | None = None,
    threads: int | None = None,
    should_stop: Callable[[], bool] = never,
) -> dict[str, Any]:
    """Run the comparisons of a suite in ``folder``, and write what came out after each.

    An entry whose data or extra is missing is left out with the reason. What is finished is kept.

    Args:
        name: The name of the suite, for the results.
        suite: The comparisons.
        folder: Where their folders go.
        progress: Is told what happens.
        seeds: How many seeds; None: as the suite says.
        only: The entries, with commas between their names; None: all.
        jobs: Comparisons at a time; None: as the suite says, but no more than cores. With more than one, each has a
            process and its share of the cores.
        data_root: Where the user's data are.
        threads: Of the CPU, for each comparison.
        should_stop: Returns whether to stop.

    Returns:
        The content of bench.json: the suite, and of each entry its rows or the reason why there are none.

    Raises:
        ConfigError: The suite is wrong; nothing has run.
        Interrupted: ``should_stop`` said so.
    """
    count = seeds or suite.seeds
    entries = suite.chosen(only)
    suite.check(only, count, data_root, threads)
    rest = (folder, Terms(count, data_root, threads), progress, should_stop)
    jobs = jobs or min(suite.jobs, available_cpus())
    outcomes = side_by_side(entries, jobs, *rest) if jobs > 1 else _in_turn(entries, *rest)
    results: dict[str, Any] = {"suite": name, "description": suite.description, "seeds": count, "entries": {}}
    by_name: dict[str, Any] = {}
    for key, result in outcomes:
        by_name[key] = result
        results["entries"] = {key: by_name[key] for key in entries if key in by_name}
        write_text(folder / RESULTS, json.dumps(results, indent=2))
    return results


def _in_turn(
    entries: Mapping[str, Entry],
    folder: Path,
    terms: Terms,
    progress: ComparisonProgress,
    should_stop: Callable[[], bool],
) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, entry in entries.items():
        progress.note(f"{key}: {entry.title}")
        result = entry_result(entry, folder / key, terms, progress, should_stop)
        if "left_out" in result:
            progress.note(f"left out: {result['left_out']}")
        yield key, result
