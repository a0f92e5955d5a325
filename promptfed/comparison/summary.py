"""Means and standard deviations over seeds, from the runs' own directories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from promptfed.comparison.differences import with_differences
from promptfed.comparison.plan import LOCAL_ONLY, Plan
from promptfed.errors import RunError
from promptfed.method import METHODS
from promptfed.packed_bits import unpacked_bits
from promptfed.privacy.statement import FILE
from promptfed.result_notes import below_zero_shot
from promptfed.runs.directory import DETAILS, RunDirectory, is_run
from promptfed.runs.ledger import Cost, cost_of, query_curve
from promptfed.usage import READINGS

FIGURES = ("local", "local_all", "base", "new", "hm")
ORACLE_COSTS = ("queries_a_round", "oracle_queries", "oracle_calls", "oracle_cache_hits", "usd")
COSTS = (
    "bytes_up_a_round", "bytes_down_a_round", "bytes", "seconds", "image_encoder_calls", "text_encoder_calls",
    *ORACLE_COSTS,
)  # fmt: skip


def summarise(
    plan: Plan, folder: Path, left_out: Mapping[str, str], search: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Summarise the finished runs of a comparison.

    Args:
        plan: The plan.
        folder: The folder of the comparison.
        left_out: Method -> why it is not compared, or not to the end.
        search: Method -> the values that its search chose, and its trials.

    Returns:
        The content of ``comparison.json``. A method without a finished run has only its label and the reason.
    """
    methods: dict[str, Any] = {}
    features, held_out = Cost(), []
    new_classes: list[str] = []
    notes: dict[str, None] = {}
    examples = "images"
    measures: dict[str, Any] = {}
    right: dict[str, list[bool]] = {}
    for method in plan.methods:
        runs, alone = [], []
        for seed in plan.seeds:
            path = folder / method / f"seed-{seed}"
            run = RunDirectory.open(path) if is_run(path) else None
            metrics = run.read_metrics() if run is not None else None
            if run is not None and metrics is not None:
                events = run.events.read()
                features += cost_of(event for event in events if event["event"] == "features")
                measures |= metrics.get("measures") or {}
                held_out, new_classes = metrics["held_out"], metrics.get("new_classes") or []
                examples = metrics.get("examples") or examples
                notes |= dict.fromkeys(metrics.get("notes") or ()) if seed == plan.seeds[0] else {}
                runs.append({**_row(run, metrics["method"], events, folder, method), "seed": seed})
                if method == plan.alone and LOCAL_ONLY in metrics:
                    alone.append({**_row(run, metrics[LOCAL_ONLY], events, folder, LOCAL_ONLY), "seed": seed})
                if len(plan.seeds) == 1:
                    right[method] = _right(run)
        if alone:
            methods[LOCAL_ONLY] = _about(LOCAL_ONLY, alone, "", {})
            notes[f"local-only: {METHODS[method].name} of each client by itself, in the same runs"] = None
        methods[method] = _about(method, runs, left_out.get(method, ""), search.get(method, {}))
    level = _means(methods["zero_shot"]) if "zero_shot" in methods else None
    for about in methods.values():
        about["below_zero_shot"] = below_zero_shot(_means(about), level)
    base = plan.config("zero_shot", plan.base.seed)
    summary = {
        "task": base.task,
        "data": base.data,
        "backbone": base.backbone,
        "oracle": base.oracle,
        "rounds": base.rounds,
        "shots": base.shots,
        "seeds": list(plan.seeds),
        "partition_seeds": [plan.config("zero_shot", seed).partition_seed for seed in plan.seeds],
        "search": {"grid": {name: list(values) for name, values in plan.grid.items()}, **dict(search)},
        "features": features.shown(),
        "held_out": held_out,
        "new_classes": new_classes,
        "examples": examples,
        "notes": list(notes),
        **({"measures": measures} if measures else {}),
        "methods": methods,
    }
    return with_differences(summary, {name: each for name, each in right.items() if each})


def _right(run: RunDirectory) -> list[bool]:
    """Return which of the clients' own test examples a run answered right; empty if it has not kept that."""
    try:
        details = run.read_json(DETAILS) or {}
    except RunError:  # the report of that run says so; the figures are whole
        return []
    bits, items = details.get("right"), details.get("items")
    return unpacked_bits(bits, items) if isinstance(bits, str) and isinstance(items, int) else []


def _row(
    run: RunDirectory, figures: Mapping[str, Any], events: Sequence[Mapping[str, Any]], home: Path, stage: str
) -> dict[str, Any]:
    """Return figures and costs of a run's stage. The image features, which all runs share, are not among its costs."""
    cost = cost_of(events, stage)
    rounds = max(1, sum(event["event"] == "round" and event["stage"] == stage for event in events))
    work = [e.get("oracle_queries") or 0 for e in events if e["event"] == "client" and e["stage"] == stage]
    return {
        "run": str(run.path.relative_to(home)),
        **{name: figures.get(name) for name in FIGURES},
        "domains": figures["domains"],
        **({"measures": each} if (each := figures.get("measures")) else {}),
        **(_promise(run) if stage == run.config.method else {}),  # a baseline trains without noise
        "intervals": figures.get("intervals") or {},
        "options": run.config.method_options,
        "aggregator": run.config.aggregator,
        "bytes_up_a_round": cost.bytes_up / rounds,
        "bytes_down_a_round": cost.bytes_down / rounds,
        "bytes": cost.bytes_up + cost.bytes_down,
        "seconds": cost.seconds,
        "image_encoder_calls": cost.image_encoder_calls,
        "text_encoder_calls": cost.text_encoder_calls,
        "queries_a_round": sum(work) / max(1, len(work)),
        **{name: getattr(cost, name) for name in ORACLE_COSTS[1:]},
        "query_curve": [list(point) for point in query_curve(events, stage)],
        **{name: value for name, value in cost.recorded().items() if name in READINGS},
    }


def _about(method: str, runs: Sequence[Mapping[str, Any]], why: str, search: Mapping[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {"label": METHODS[method].name, "left_out": why, "tuned": search.get("chosen", {})}
    if not runs:
        return {**about, "runs": []}
    domains = runs[0]["domains"]
    return {
        **about,
        **{name: spread([run[name] for run in runs]) for name in FIGURES},
        "domains": {domain: spread([run["domains"][domain] for run in runs]) for domain in domains},
        **({"measures": _measure_spreads(runs)} if any(run.get("measures") for run in runs) else {}),
        **({"privacy": _weakest(promises)} if (promises := [r["privacy"] for r in runs if "privacy" in r]) else {}),
        **{name: fmean(run[name] for run in runs) for name in COSTS},
        **{name: fmean(run.get(name, 0) for run in runs) for name in READINGS if any(name in run for run in runs)},
        "intervals": runs[0]["intervals"] if len(runs) == 1 else {},
        "options": runs[0]["options"],
        "aggregator": runs[0]["aggregator"],
        "query_curve": mean_curve([run["query_curve"] for run in runs]),
        "runs": list(runs),
    }


def _promise(run: RunDirectory) -> dict[str, Any]:
    """Return unit, epsilon (None: no limit) and delta under "privacy", if the run has differential privacy."""
    found = run.read_json(FILE) or {}
    if found.get("differential_privacy", "none") == "none":
        return {}
    return {"privacy": {name: found.get(name) for name in ("unit", "epsilon", "delta")}}


def _weakest(promises: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the promise with the largest epsilon."""
    return max(promises, key=lambda promise: inf if promise["epsilon"] is None else promise["epsilon"])


def _measure_spreads(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return measure -> part -> mean and standard deviation over the runs that all have it."""
    names = [name for name in runs[0].get("measures") or {} if all(name in (run.get("measures") or {}) for run in runs)]
    parts = ("local", "local_all", "base", "new")
    return {name: {part: spread([run["measures"][name].get(part) for run in runs]) for part in parts} for name in names}


def _means(about: Mapping[str, Any]) -> dict[str, float | None]:
    """Return figure -> its mean over seeds; None where there is none."""
    return {name: (about.get(name) or {}).get("mean") for name in FIGURES}


def mean_curve(curves: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Return the point-wise mean of curves of (queries, accuracy) points, up to the end of the shortest."""
    return [[fmean(axis) for axis in zip(*points, strict=True)] for points in zip(*curves, strict=False)]


def spread(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Return mean and sample standard deviation (n - 1; None for a single value); None if a value is missing."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values) or not numbers:
        return None
    return {"mean": fmean(numbers), "std": stdev(numbers) if len(numbers) > 1 else None}
