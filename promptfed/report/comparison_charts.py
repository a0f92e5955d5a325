"""Charts of a comparison's page: accuracy against bytes, at home against elsewhere, and against queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from promptfed.report.charts.lines import Series
from promptfed.report.charts.look import BASELINES, Look, method_look
from promptfed.report.charts.scale import short_number
from promptfed.report.charts.scatter import Point, pareto_front, scatter_plot
from promptfed.report.charts.svg import Chart
from promptfed.report.html import readable_bytes
from promptfed.report.round_charts import accuracy_by_queries

Methods = Mapping[str, Mapping[str, Any]]
"""Name -> the entry of comparison.json, of methods with a finished run."""

TRADE_OFF_NOTE = (
    "Right is better at home, up is better elsewhere; bars are one standard deviation over seeds, dashed lines are "
    "zero-shot. A point low on the right wins locally by losing the rest."
)
ZERO_SHOT = "zero_shot"
STAR = " *"
"""Stands behind the name of a method on the Pareto front."""


@dataclass(frozen=True)
class Pareto:
    """Accuracy and bytes of each method.

    Attributes:
        figure: The name of the accuracy: HM, or base where no class is new.
        places: Method -> (bytes of a run, accuracy in %).
        front: Methods that no other one beats: none is at least as accurate with fewer bytes.
        chart: The plot of the methods that send anything; None for none.
    """

    figure: str
    places: dict[str, tuple[float, float]]
    front: tuple[str, ...]
    chart: Chart | None


def looks_of(methods: Methods) -> dict[str, Look]:
    """Return the look of each method, the same in all charts of a page."""
    trained = [name for name in methods if name not in BASELINES]
    return {name: BASELINES.get(name) or method_look(trained.index(name)) for name in methods}


def pareto(methods: Methods) -> Pareto | None:
    """Return accuracy against bytes; None without figures."""
    key, figure = ("hm", "HM") if methods and all(m["hm"] for m in methods.values()) else ("base", "base")
    places = {name: (float(m["bytes"]), 100 * m[key]["mean"]) for name, m in methods.items() if m[key]}
    if not places:
        return None
    best = set(pareto_front(list(places.values())))
    front = tuple(name for name, place in places.items() if place in best)
    looks = looks_of(methods)
    points = [
        Point(name + (STAR if name in front else ""), x, y, looks[name], y_ends=_ends(methods[name][key]))
        for name, (x, y) in places.items()
        if x > 0
    ]
    chart = scatter_plot(
        f"{figure} accuracy against bytes",
        points,
        x_title="bytes of a whole run, both ways, all clients together (log scale)",
        y_title=f"{figure} accuracy (%)",
        x_log=True,
        y_level=places[ZERO_SHOT][1] if ZERO_SHOT in places else None,
        front=sorted(places[name] for name in front if places[name][0] > 0),
        x_words=_bytes,
        note=f"Not dominated: {', '.join(front)}.",
    )
    return Pareto(figure, places, front, chart)


def trade_off_chart(methods: Methods) -> Chart | None:
    """Draw accuracy elsewhere against local accuracy, as ``comparison_plot.trade_off`` does; None without figures."""
    if not methods:
        return None
    elsewhere = "new" if all(m["new"] for m in methods.values()) else "base"
    home = "local" if all(m["local"] for m in methods.values()) else "local_all"
    if not all(m[home] and m[elsewhere] for m in methods.values()):
        return None
    looks = looks_of(methods)
    points = [
        Point(name, 100 * m[home]["mean"], 100 * m[elsewhere]["mean"], looks[name], _ends(m[home]), _ends(m[elsewhere]))
        for name, m in methods.items()
    ]  # fmt: skip
    level = methods.get(ZERO_SHOT)
    return scatter_plot(
        "At home against elsewhere",
        points,
        x_title=f"local accuracy{' among all classes' if home == 'local_all' else ''} (%)",
        y_title="accuracy on new classes (%)" if elsewhere == "new" else "accuracy on all training classes (%)",
        x_level=100 * level[home]["mean"] if level else None,
        y_level=100 * level[elsewhere]["mean"] if level else None,
    )


def queries_chart(methods: Methods) -> Chart | None:
    """Draw validation accuracy against queries of training; None without a black box."""
    looks = looks_of(methods)
    series = [
        Series(name, [(x, 100 * y) for x, y in curve], looks[name], name == ZERO_SHOT)
        for name, method in methods.items()
        if (curve := method.get("query_curve"))
    ]
    if not any(len(one.points) > 1 for one in series):
        return None
    return accuracy_by_queries(series, width=560.0)


def _ends(spread: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return mean minus and plus one standard deviation, in per cent."""
    if spread["std"] is None:
        return None
    return 100 * (spread["mean"] - spread["std"]), 100 * (spread["mean"] + spread["std"])


def _bytes(value: float) -> str:
    """Format a tick of the axis of bytes: ``"20 kB"``."""
    number, unit = readable_bytes(round(value)).split()
    return f"{short_number(float(number))} {unit}"
