"""The result of one comparison of a suite: its rows, and whether its data are those of the suite."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptfed.bench.rows import entry_rows
from promptfed.bench.suite import PROTOCOL, Entry
from promptfed.config import RunConfig
from promptfed.errors import PromptFedError
from promptfed.progress import ComparisonProgress
from promptfed.runner import carry_out_comparison
from promptfed.runs.directory import RunDirectory, is_run
from promptfed.runs.partition_file import read_partition


@dataclass(frozen=True)
class Terms:
    """What the comparisons of a suite have in common.

    Attributes:
        seeds: How many seeds each has.
        data_root: Where the user's data are.
        threads: Of the CPU, for each; None: as usual.
    """

    seeds: int
    data_root: str | None = None
    threads: int | None = None


def entry_result(
    entry: Entry, folder: Path, terms: Terms, progress: ComparisonProgress, should_stop: Callable[[], bool]
) -> dict[str, Any]:
    """Run the comparison ``entry`` in ``folder``, and return its rows or the reason why it has none."""
    about = {"title": entry.title, "needs": entry.needs, "figure": entry.figure}
    try:
        plan = entry.plan(terms.seeds, terms.data_root, terms.threads)
        folder.mkdir(parents=True, exist_ok=True)
        summary, _ = carry_out_comparison(plan, folder, progress, should_stop)
    except PromptFedError as problem:
        return {**about, "left_out": str(problem)}
    records = {seed: partition_of(folder, plan.methods, seed) for seed in plan.seeds}
    partitions = {seed: digest for seed, record in records.items() if (digest := partition_digest(record))}
    notes = list(summary["notes"])
    if other := [seed for seed, digest in partitions.items() if entry.partitions.get(seed, digest) != digest]:
        seeds_text = ", ".join(map(str, other))
        notes.insert(0, f"other examples than the suite's at seed {seeds_text}: not comparable with other runs of it")
    config = plan.config("zero_shot", plan.seeds[0])
    protocol = {key: getattr(config, key) for key in PROTOCOL if key in RunConfig.model_fields}
    protocol |= {"clients": len(records[plan.seeds[0]].get("clients", ())) or config.clients, "seeds": terms.seeds}
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
