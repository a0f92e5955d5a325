"""Who holds what, as a table of counts and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from promptfed.examples.base import QuestionItem, TextItem
from promptfed.printable import figure_text, printable
from promptfed.tasks.partition_check import content_record
from promptfed.types import FederatedTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from promptfed.config import RunConfig
    from promptfed.frozen_model import FrozenModel

MOST_TICKS = 60
"""Names written along an axis; beyond that every second, third ... one."""
LONGEST_TICK = 40
"""Characters of a name along an axis."""


def partition_table(task: FederatedTask) -> dict[str, Any]:
    """``{"examples": "images", "classes": [name], "new_classes": [name], "partition": "domain", "clients": [{"client",
    "name", "domain", "one_class", "train", "val", "test"}]}``, counts by class."""
    count = len(task.base_classes)
    return {
        "examples": examples(task),
        "classes": list(task.base_classes),
        "new_classes": list(task.new_classes),
        "partition": task.partition,
        "clients": [
            {
                "client": data.client,
                "name": data.name,
                "domain": data.domain,
                "one_class": len(data.classes) == 1,
                "train": data.train.counts(count),
                "val": data.val.counts(count),
                "test": data.test.counts(count),
            }
            for data in task.clients
        ],
    }


def shown_data(config: RunConfig) -> str:
    """What the examples of a run come from: its ``--data``, or the CSV file of ``--partition`` in their place."""
    return printable(config.partition if config.partition.startswith("csv:") else config.data)


def examples(task: FederatedTask) -> str:
    """What its examples are: "images", "texts" or "questions" (with free answers)."""
    first = task.base_test.items[0] if len(task.base_test) else None
    if isinstance(first, QuestionItem):
        return "questions"
    return "texts" if isinstance(first, TextItem) else "images"


def partition_record(task: FederatedTask, model: FrozenModel | None = None) -> dict[str, Any]:
    """What a run keeps of its task: the table, ``new_classes``, ``templates`` and ``content``, by which
    ``partition_check`` knows it again; where the model is a black box also ``form``, and the fingerprint of the
    ``oracle`` that examples in that form are put to, else name and fingerprint of the ``backbone``."""
    agreed: dict[str, Any] = {
        "templates": list(task.templates),
        "content": content_record(task),
    }
    if task.form is not None:
        agreed["form"] = task.form.model_dump(mode="json")
    return {**partition_table(task), **agreed, **(model.describe() if model else {})}


def plot_partition(table: dict[str, Any]) -> Figure:
    """Training examples by client and class as a shaded grid, and beside it each client's total.

    Made without pyplot, so nothing global changes and no window opens. Readable up to a few hundred clients.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names, clients, examples = table["classes"], table["clients"], table.get("examples", "images")
    grid = [client["train"] for client in clients]
    height = min(24.0, max(3.0, 1.6 + 0.16 * len(clients)))
    figure = Figure(figsize=(min(18.0, max(7.0, 3.5 + 0.16 * len(names))), height), layout="constrained")
    cells, bars = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))

    # White is none, so that an empty cell is not taken for a small count.
    shade = cells.imshow(
        grid, aspect="auto", cmap="Blues", vmin=0, vmax=max(1, *map(max, grid)), interpolation="nearest"
    )
    _name_ticks(cells.xaxis, names)
    cells.tick_params(axis="x", rotation=90, labelsize=7)
    _name_ticks(cells.yaxis, [client["name"] for client in clients])
    cells.tick_params(axis="y", labelsize=7)
    cells.set_xlabel(f"{len(names)} base classes")
    cells.set_ylabel(f"{len(clients)} clients")
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
