"""The partition as a picture: each client's number of examples of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from promptfed.printable import figure_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TICKS = 60
"""Names written along an axis; beyond that every second, third ... one."""
MOST_ROWS = 400
"""Clients that are drawn."""
LONGEST_TICK = 40
"""Characters of a name along an axis."""


def plot_partition(table: dict[str, Any]) -> Figure:
    """Plot training examples by client and class as a shaded grid, and beside it each client's total.

    Made without pyplot, so nothing global changes and no window opens. Of more than ``MOST_ROWS`` clients as many are
    drawn, at even distances.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names, examples, count = table["classes"], table.get("examples", "images"), len(table["clients"])
    shown = range(count) if count <= MOST_ROWS else [k * count // MOST_ROWS for k in range(MOST_ROWS)]
    clients = [table["clients"][k] for k in shown]
    grid = [client["train"] for client in clients]
    height = min(24.0, max(3.0, 1.6 + 0.16 * len(clients)))
    figure = Figure(figsize=(min(18.0, max(7.0, 3.5 + 0.16 * len(names))), height), layout="constrained")
    cells, bars = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))

    # Only zero is white, so that an empty cell is not taken for a small count.
    shade = cells.imshow(
        grid, aspect="auto", cmap="Blues", vmin=0, vmax=max(1, *map(max, grid)), interpolation="nearest"
    )
    _name_ticks(cells.xaxis, names)
    cells.tick_params(axis="x", rotation=90, labelsize=7)
    _name_ticks(cells.yaxis, [client["name"] for client in clients])
    cells.tick_params(axis="y", labelsize=7)
    cells.set_xlabel(f"{len(names)} base classes")
    cells.set_ylabel(f"{count} clients" if count == len(clients) else f"{len(clients)} of {count:,} clients")
    figure.colorbar(
        shade, ax=cells, label=f"training {figure_text(examples)}", ticks=MaxNLocator(integer=True), pad=0.01
    )

    rows, start = range(len(clients)), [0] * len(clients)
    for part, colour in (("train", "tab:blue"), ("val", "tab:orange")):
        totals = [sum(client[part]) for client in clients]
        bars.barh(rows, totals, left=start, color=colour, label=part)
        start = [a + b for a, b in zip(start, totals, strict=True)]
    bars.tick_params(axis="y", labelleft=False)
    bars.set_xlabel(figure_text(examples))
    figure.legend(*bars.get_legend_handles_labels(), fontsize=7, ncols=2, loc="outside upper right")
    return figure


def _name_ticks(axis: Any, names: Sequence[str]) -> None:
    step = max(1, math.ceil(len(names) / MOST_TICKS))
    axis.set_ticks(range(0, len(names), step), labels=[figure_text(name, LONGEST_TICK) for name in names[::step]])
