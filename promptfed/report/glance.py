"""What came out of a run at a glance: a verdict in words, the figures beside the baselines, and what to be wary of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from promptfed.printable import printable
from promptfed.report.tables import KEYS, interval, percent, result_rows, shown_stages

Figures = Mapping[str, Any]
MEANINGS = {
    "local": "each client on its own classes",
    "base": "all training classes together",
    "new": "classes no client saw",
    "HM": "harmonic mean of the three",
}
"""Columns of the table of results that have a tile, and what they say."""
VERBS = {
    "questions": ("answers", "right"),
    "windows": ("forecasts", "better than persistence"),
    "episodes": ("plays", "better than preferred resolutions with equal shares"),
}
"""What the examples are called -> what a method does with them, and what counts as right; else it sorts them."""
WINDOWS = {"local": "each station on its own windows", "base": "all stations that take part", "new": "other stations"}
"""MEANINGS of windows of series."""
EPISODES = {"local": "each cell on its own episodes", "base": "all cells that take part", "new": "other cells"}
"""MEANINGS of episodes."""
RISE = 1.1
"""A loss that ends so many times higher than its lowest level rises."""
FALL = 0.02
"""A validation accuracy that ends so much below its highest falls."""
FEWEST_ROUNDS = 4
LOST_SHARE = 0.1


@dataclass(frozen=True)
class Tile:
    """A figure of the method: its ``value`` and ``interval`` in per cent, and the differences to the baselines.

    ``differences``: (words, "up" or "down" or "").
    """

    name: str
    meaning: str
    value: str
    interval: str
    differences: tuple[tuple[str, str], ...]


def tiles(metrics: Figures) -> list[Tile]:
    """Return a tile for each of these columns that has a figure."""
    if not metrics.get("method"):
        return []
    columns, _ = result_rows(metrics)
    meanings = MEANINGS | {"windows": WINDOWS, "episodes": EPISODES}.get(metrics.get("examples", ""), {})
    stages = shown_stages(metrics)
    *baselines, (_, _, method) = stages

    def differences(key: str) -> tuple[tuple[str, str], ...]:
        """Return how far the method is from each baseline that has the figure."""
        value = method.get(key)
        if value is None:
            return ()
        levels = [(figures.get(key), figures.get("name") or label) for _, label, figures in baselines]
        return tuple(_difference(value, level, name) for level, name in levels if level is not None)

    return [
        Tile(
            column,
            meanings[column],
            percent(method.get(KEYS[column])),
            interval((method.get("intervals") or {}).get(KEYS[column])),
            differences(KEYS[column]),
        )
        for column in columns
        if column in MEANINGS
    ]


def _difference(value: float, level: float, name: str) -> tuple[str, str]:
    """Return the difference of two figures as they are printed, in words, and its direction."""
    points = round(100 * value, 1) - round(100 * level, 1)
    if abs(points) < 0.05:
        return f"the same as {name}", ""
    sign, direction = ("+", "up") if points > 0 else ("\u2212", "down")
    return f"{sign}{abs(points):.1f} vs {name}", direction


def verdict(metrics: Figures) -> str:
    """Return what came out in a sentence or two; empty without figures.

    A difference is called clear where the 95 % intervals of the two figures do not meet.
    """
    if not metrics.get("method"):
        return ""
    stages = shown_stages(metrics)
    *baselines, (_, label, method) = stages
    name, examples = method.get("name") or label, metrics.get("examples") or "examples"
    does, right = VERBS.get(str(examples), ("classifies", "right, choosing among all training classes"))
    sentence = f"{name} {does} {percent(method.get('base'))} % of the test {examples} {right}"
    ends = (method.get("intervals") or {}).get("base")
    sentence += f" (95 % interval {percent(ends[0])} to {percent(ends[1])})" if ends else ""
    comparisons = [_comparison(method, figures, figures.get("name") or other) for _, other, figures in baselines]
    sentence += f": {'; '.join(filter(None, comparisons))}" if any(comparisons) else ""
    return f"{sentence}. {_at_home(metrics, method, baselines)}".strip()


def _comparison(method: Figures, other: Figures, name: str) -> str:
    value, level = method.get("base"), other.get("base")
    if value is None or level is None:
        return ""
    points = round(100 * value, 1) - round(100 * level, 1)
    if abs(points) < 0.05:
        return f"the same as {name}"
    ours, theirs = ((figures.get("intervals") or {}).get("base") for figures in (method, other))
    is_clear = bool(ours and theirs and (ours[0] > theirs[1] or theirs[0] > ours[1]))
    doubt = "" if is_clear or not (ours and theirs) else ", which may be chance"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'} {name} ({percent(level)}){doubt}"


def _at_home(metrics: Figures, method: Figures, baselines: Sequence[tuple[str, str, Figures]]) -> str:
    """Return a sentence on the mean over clients, each on its own classes; empty where that says nothing more."""
    value = method.get("local")
    others = [
        f"{figures.get('name') or label} {percent(figures['local'])}"
        for _, label, figures in baselines
        if figures.get("local") is not None
    ]
    if value is None or not others:
        return ""
    homes = {"windows": "station's own windows", "episodes": "cell's own episodes"}
    own = homes.get(metrics.get("examples", ""), "client's own classes")
    return f"On a {own} it reaches {percent(value)} %, the mean over clients ({', '.join(others)})."


def warnings(metrics: Figures, events: Sequence[Figures], stages: Mapping[str, str]) -> list[str]:
    """Return what a reader must know before trusting the figures, a sentence each.

    Args:
        metrics: Those of the run; empty for one that has not finished.
        events: All events of the run.
        stages: Stage -> its label.
    """
    lines = []
    method = metrics.get("method") or {}
    if below := method.get("below_zero_shot"):
        lines.append(
            f"{method.get('name') or 'The method'} is below zero-shot on {', '.join(below)}: there the model does "
            "better without what was trained."
        )
    if kept := (metrics.get("kept_zero_shot") or {}).get("method"):
        lines.append(
            "On validation examples the prompt without training does better, so it is tested and exported: "
            f"{method.get('name') or 'the method'} {kept}."
        )
    for stage, label in stages.items():
        if stage != "zero_shot":
            lines += _of_rounds(events, stage, label)
            lines += _of_lost_updates(events, stage, label)
    lines += [printable(f"{note[:1].upper()}{note[1:]}").rstrip(".") + "." for note in metrics.get("notes") or ()]
    return lines


def _of_rounds(events: Sequence[Figures], stage: str, label: str) -> list[str]:
    """Return warnings about curves that go the wrong way."""
    rounds = [event for event in events if event["event"] == "round" and event["stage"] == stage]
    lines = []
    losses = [float(event["loss"]) for event in rounds if event.get("loss") is not None]
    if len(losses) >= FEWEST_ROUNDS:
        width = max(1, len(losses) // 4)
        levels = [fmean(losses[k : k + width]) for k in range(len(losses) - width + 1)]
        lowest = min(levels)
        if levels[-1] > max(RISE * lowest, lowest + 1e-6):
            lines.append(
                f"The training loss of {label} rises: it is {levels[-1]:.3g} at the end and was {lowest:.3g} around "
                f"round {rounds[levels.index(lowest)]['round']}. Try a smaller learning rate."
            )
    scores = [
        (float(event["val_accuracy"]), event["round"]) for event in rounds if event.get("val_accuracy") is not None
    ]
    if len(scores) >= FEWEST_ROUNDS:
        best, where = max(scores)
        if scores[-1][0] < best - FALL:
            lines.append(
                f"The validation accuracy of {label} was highest in round {where}, {percent(best)} %, and is "
                f"{percent(scores[-1][0])} % at the end: fewer rounds may do."
            )
    return lines


def _of_lost_updates(events: Sequence[Figures], stage: str, label: str) -> list[str]:
    failures = [
        bool(event.get("failure")) for event in events if event["event"] == "client" and event["stage"] == stage
    ]
    lost = sum(failures)
    if not failures or lost <= LOST_SHARE * len(failures):
        return []
    return [f"{lost:,} of {len(failures):,} updates of {label} were lost or refused; the section Rounds says why."]
