"""Intervals over seeds, and tests of each method against PromptFL and against zero-shot, as comparison.json has them.

With two seeds or more, a paired t-test over the seeds that both methods have finished. With one seed, McNemar's exact
test on the clients' own test examples, if the runs have kept what they got right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from promptfed.paired_tests import Paired, holm, mcnemar_of, paired_t, seed_interval
from promptfed.report.tables import BASELINES

FIGURES = ("local", "local_all", "base", "new", "hm")
ZERO_SHOT = "zero_shot"
REFERENCE = "promptfl"
OVER_SEEDS = "paired t-test over seeds"
ON_EXAMPLES = "McNemar's exact test on the clients' own test examples"
CORRECTION = "Holm"
NO_TEST = (
    "One seed and no predictions that were kept: no test can be made. Compare with --seeds 3 or more, and the seeds "
    "show what chance does."
)

Right = Mapping[str, Sequence[bool]]
"""Method -> which of the test examples of one seed it gets right."""


def with_differences(summary: Mapping[str, Any], right: Right | None = None) -> dict[str, Any]:
    """Return ``summary`` with each method's ``seed_intervals`` and with ``tests``; it may have been without them.

    Args:
        summary: The content of comparison.json.
        right: What each method gets right, if all have one seed and have kept it.
    """
    methods = {
        name: {**method, "seed_intervals": _intervals(method["runs"])} if method["runs"] else method
        for name, method in summary["methods"].items()
    }
    tests = summary["tests"] if right is None and "tests" in summary else differences_of(methods, right or {})
    return {**summary, "methods": methods, "tests": tests}


def reference_of(methods: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return what the others are tested against: PromptFL, else the first method that is no baseline."""
    finished = [name for name, method in methods.items() if method["runs"]]
    others = [name for name in finished if name not in BASELINES]
    return REFERENCE if REFERENCE in finished else next(iter(others), None)


def differences_of(methods: Mapping[str, Mapping[str, Any]], right: Right) -> dict[str, Any]:
    """Return ``test``, ``correction``, ``note`` and ``against``: reference -> method -> figure -> what was measured.

    ``right`` is used where no two seeds are finished.
    """
    runs = {name: method["runs"] for name, method in methods.items() if method["runs"]}
    references = [name for name in dict.fromkeys((reference_of(methods), ZERO_SHOT)) if name in runs]
    over_seeds = any(len(each) > 1 for each in runs.values())
    if not over_seeds and not right:
        return {"test": "", "correction": "", "note": NO_TEST if len(runs) > 1 else "", "against": {}}
    against = {}
    for reference in references:
        others = [name for name in runs if name != reference]
        if over_seeds:
            found = {name: _over_seeds(runs[name], runs[reference]) for name in others}
        else:
            found = {name: _on_examples(name, reference, right) for name in others}
        found = {name: figures for name, figures in found.items() if figures}
        if found:
            against[reference] = _corrected(found)
    test = OVER_SEEDS if over_seeds else ON_EXAMPLES
    return {"test": test, "correction": CORRECTION, "note": "", "against": against}


def _intervals(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return figure -> 95 % interval over seeds, of the figures that every run has."""
    intervals = {}
    for figure in FIGURES:
        values = [run.get(figure) for run in runs]
        numbers = [value for value in values if value is not None]
        if len(numbers) == len(values) and (ends := seed_interval(numbers)) is not None:
            intervals[figure] = list(ends)
    return intervals


def _over_seeds(runs: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Compare figure by figure on the seeds that both have."""
    by_seed = {run["seed"]: run for run in others}
    pairs = [(run, by_seed[run["seed"]]) for run in runs if run["seed"] in by_seed]
    found = {}
    for figure in FIGURES:
        values = [(run[figure], other[figure]) for run, other in pairs if None not in (run[figure], other[figure])]
        if len(values) == len(pairs) and (paired := paired_t(*zip(*values, strict=True)) if values else None):
            found[figure] = {**_recorded(paired), "seeds": len(pairs)}
    return found


def _on_examples(name: str, reference: str, right: Right) -> dict[str, dict[str, Any]]:
    """Compare what both get right of the same test examples."""
    one, other = right.get(name, ()), right.get(reference, ())
    if not one or len(one) != len(other):
        return {}
    return {"local_all": {**_recorded(mcnemar_of(one, other)), "items": len(one)}}


def _recorded(paired: Paired) -> dict[str, Any]:
    interval = None if paired.interval is None else list(paired.interval)
    return {"difference": paired.difference, "interval": interval, "p": paired.p}


def _corrected(found: Mapping[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Add ``p_holm``: corrected over the methods, for each figure by itself."""
    for figure in FIGURES:
        tested = [figures[figure] for figures in found.values() if figure in figures]
        for entry, p in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
            entry["p_holm"] = p
    return dict(found)
