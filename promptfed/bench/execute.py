"""A suite is run: one comparison after the other, each in a folder of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from promptfed.bench.rows import entry_rows
from promptfed.bench.suite import PROTOCOL, Entry, Suite
from promptfed.config import RunConfig
from promptfed.engines.base import never
from promptfed.errors import PromptFedError
from promptfed.files.atomic import write_text
from promptfed.progress import ComparisonProgress
from promptfed.runner import carry_out_comparison
from promptfed.runs.directory import RunDirectory, is_run
from promptfed.runs.partition_file import read_partition

RESULTS = "bench.json"


def run_suite(
    name: str,
    suite: Suite,
    folder: Path,
    progress: ComparisonProgress,
    *,
    seeds: int | None = None,
    only: str | None = None,
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
        data_root: Where the user's data are.
        threads: Of the CPU.
        should_stop: Returns whether to stop.

    Returns:
        The content of bench.json: the suite, and of each entry its rows or the reason why there are none.

    Raises:
        ConfigError: The suite is wrong.
        Interrupted: ``should_stop`` said so.
    """
    count = seeds or suite.seeds
    entries = suite.chosen(only)
    results: dict[str, Any] = {"suite": name, "description": suite.description, "seeds": count, "entries": {}}
    for key, entry in entries.items():
        progress.note(f"{key}: {entry.title}")
        results["entries"][key] = _entry_result(entry, count, folder / key, progress, data_root, threads, should_stop)
        write_text(folder / RESULTS, json.dumps(results, indent=2))
    return results


def _entry_result(
    entry: Entry,
    seeds: int,
    folder: Path,
    progress: ComparisonProgress,
    data_root: str | None,
    threads: int | None,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    about = {"title": entry.title, "needs": entry.needs, "figure": entry.figure}
    try:
        plan = entry.plan(seeds, data_root, threads)
        folder.mkdir(parents=True, exist_ok=True)
        summary, _ = carry_out_comparison(plan, folder, progress, should_stop)
    except PromptFedError as problem:
        progress.note(f"left out: {problem}")
        return {**about, "left_out": str(problem)}
    records = {seed: partition_of(folder, plan.methods, seed) for seed in plan.seeds}
    partitions = {seed: digest for seed, record in records.items() if (digest := partition_digest(record))}
    notes = list(summary["notes"])
    if other := [seed for seed, digest in partitions.items() if entry.partitions.get(seed, digest) != digest]:
        seeds_text = ", ".join(map(str, other))
        notes.insert(0, f"other examples than the suite's at seed {seeds_text}: not comparable with other runs of it")
    config = plan.config("zero_shot", plan.seeds[0])
    protocol = {key: getattr(config, key) for key in PROTOCOL if key in RunConfig.model_fields}
    protocol |= {"clients": len(records[plan.seeds[0]].get("clients", ())) or config.clients, "seeds": seeds}
    rows = entry_rows(summary, entry.figure, entry.published, protocol)
    return {
        **about,
        "protocol": protocol,
        "partitions": partitions,
        "rows": rows,
        "measures": summary.get("measures") or {},
        "notes": notes,
    }


def partition_of(folder: Path, methods: Sequence[str], seed: int) -> Mapping[str, Any]:
    """Return what the runs of a comparison keep of their data at ``seed``; empty if there is none."""
    for method in methods:
        path = folder / method / f"seed-{seed}"
        if is_run(path) and (record := read_partition(RunDirectory.open(path))):
            return record
    return {}


def partition_digest(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what each client and each test holds, by content; empty if it is not known."""
    content = record.get("content")
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest() if content else ""
