"""The report's pictures, from a run's events. Matplotlib without pyplot: nothing global changes, no window opens.

Colours are those of Okabe and Ito (2008), told apart by colour-blind readers too; every series also has a line
style or hatching of its own. Pictures are drawn narrow, so that their letters stay readable on a phone.
"""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import IO, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from promptfed.errors import ConfigError
from promptfed.files.atomic import write_bytes
from promptfed.printable import figure_text
from promptfed.runs.ledger import query_curve

BASELINE_STYLES = {"zero_shot": ("#7f7f7f", "--", ""), "local_only": ("#E69F00", "-.", "//")}
METHOD_STYLES = (("#0072B2", "-", ""), ("#009E73", ":", "xx"), ("#CC79A7", "--", ".."), ("#D55E00", "-", "oo"))
WIDTH = 4.4  # inches, at 72 points
MOST_BARS = 40
LONGEST_TICK = 22  # characters of a client's name
LARGEST_SVG = 300_000  # bytes; beyond, a PNG is smaller and quicker to show


@dataclass(frozen=True)
class Look:
    """Style of a stage in all figures of a report."""

    label: str
    colour: str
    line: str
    hatch: str

    @property
    def title(self) -> str:
        """Return the label as matplotlib shows it."""
        return figure_text(self.label, LONGEST_TICK)


def looks(events: Iterable[Mapping[str, Any]]) -> dict[str, Look]:
    """Return a look for every stage of the log, in order of appearance; labels are the evaluations' names."""
    names: dict[str, str] = {}
    for event in events:
        if stage := event.get("stage"):
            name = names.get(stage, stage.replace("_", "-"))
            names[stage] = event.get("name") or name if event["event"] == "evaluation" else name
    free = cycle(METHOD_STYLES)
    return {stage: Look(label, *(BASELINE_STYLES.get(stage) or next(free))) for stage, label in names.items()}


def round_curves(events: Sequence[Mapping[str, Any]], field: str, label: str, percent: bool = False) -> Figure | None:
    """Plot ``field`` of the round events against the round, a line for each stage; None without values.

    A stage of one single round beside longer ones is a level, drawn across as a dashed line. Rounds without a value
    (all clients dropped out: no loss) are left out.
    """
    series: dict[str, dict[int, float]] = {}
    recorded = [event for event in events if event["event"] == "round"]
    rounds_of = Counter(event["stage"] for event in recorded)
    for event in recorded:
        if (value := event.get(field)) is not None:
            series.setdefault(event["stage"], {})[event["round"]] = 100 * value if percent else value
    if not series:
        return None
    figure, axes = canvas(2.9)
    longest = max(len(points) for points in series.values())
    appearance = looks(events)
    for stage, points in series.items():
        look = appearance[stage]
        rounds = sorted(points)
        style: dict[str, Any] = {
            "color": look.colour,
            "linestyle": look.line,
            "label": look.title,
            "linewidth": 1.8,
        }
        if rounds_of[stage] == 1 < longest:
            axes.axhline(points[rounds[0]], **style)
        else:
            axes.plot(rounds, [points[r] for r in rounds], marker="o", markersize=3 if longest <= 40 else 0, **style)
    axes.set_xlabel("round")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    legend(axes)
    return figure


def query_curves(events: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Plot validation accuracy against the queries of training, a line for each stage; None without a black box.

    Zero-shot, and any other stage of a single round beside longer ones, is a level drawn across.
    """
    appearance = looks(events)
    series = {stage: points for stage in appearance if (points := query_curve(events, stage))}
    longest = max((len(points) for points in series.values()), default=0)
    if longest < 2:
        return None
    figure, axes = canvas(2.9)
    for stage, points in series.items():
        look = appearance[stage]
        style: dict[str, Any] = {
            "color": look.colour,
            "linestyle": look.line,
            "label": look.title,
            "linewidth": 1.8,
        }
        if len(points) == 1:
            axes.axhline(100 * points[0][1], **style)
        else:
            queries, accuracy = zip(*points, strict=True)
            axes.plot(queries, [100 * value for value in accuracy], marker="o", markersize=3, **style)
    axes.set_xlim(left=0)
    axes.set_xlabel("queries of training, all clients together")
    axes.set_ylabel("validation accuracy (%)")
    axes.grid(alpha=0.3)
    legend(axes)
    return figure


def client_accuracies(events: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return stage -> client's name -> local test accuracy, from the last evaluation of each stage."""
    return {
        event["stage"]: {
            str(score.get("name") or score["client"]): score["accuracy"]
            for score in event.get("local") or ()
            if score.get("accuracy") is not None
        }
        for event in events
        if event["event"] == "evaluation"
    }


def client_bars(events: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Plot the local test accuracy of every client under every stage; None without an evaluation.

    Up to 40 clients are bars with names; more are drawn as lines, sorted by the last stage's accuracy.
    """
    stages = {stage: scores for stage, scores in client_accuracies(events).items() if scores}
    clients = list(dict.fromkeys(client for scores in stages.values() for client in scores))
    if not clients:
        return None
    appearance = looks(events)
    if len(clients) > MOST_BARS:
        figure, axes = canvas(3.4)
        last = list(stages.values())[-1]
        clients.sort(key=lambda client: last.get(client, math.nan))
        for stage, scores in stages.items():
            heights = [100 * scores.get(client, math.nan) for client in clients]
            look = appearance[stage]
            axes.plot(heights, color=look.colour, linestyle=look.line, label=look.title, linewidth=1.4)
        last_label = appearance[next(reversed(stages))].title
        axes.set_xlabel(f"{len(clients)} clients, sorted by {last_label}")
        axes.set_ylabel("local test accuracy (%)")
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.3)
    else:
        figure, axes = canvas(1.1 + 0.13 * len(clients) * (len(stages) + 0.8))
        thick = 0.8 / len(stages)
        for number, (stage, scores) in enumerate(stages.items()):
            look = appearance[stage]
            places = [row + (number - (len(stages) - 1) / 2) * thick for row in range(len(clients))]
            lengths = [100 * scores.get(client, math.nan) for client in clients]
            axes.barh(
                places,
                lengths,
                thick,
                color=look.colour,
                hatch=look.hatch,
                edgecolor="white",
                label=look.title,
            )
        axes.set_yticks(range(len(clients)), [figure_text(client, LONGEST_TICK) for client in clients])
        axes.set_ylim(len(clients) - 0.4, -0.6)  # the first client on top
        axes.set_xlim(0, 100)
        axes.set_xlabel("local test accuracy (%)")
        axes.grid(axis="x", alpha=0.3)
    legend(axes)
    return figure


def data_uri(figure: Figure) -> str:
    """Return the figure as a ``data:`` address for an ``<img>``: SVG, or PNG where that is too large.

    Inside an ``<img>`` the identifiers of several SVGs cannot clash, and nothing in them can run or load.
    """
    buffer = io.BytesIO()
    # fixed salt and no date: the same run gives the same file
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "promptfed"}):
        save(figure, buffer, format="svg", metadata={"Date": None, "Creator": None})
    kind = "svg+xml"
    if buffer.tell() > LARGEST_SVG:
        buffer, kind = io.BytesIO(), "png"
        save(figure, buffer, format="png", dpi=160, metadata={"Software": None})
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def save(figure: Figure, target: Path | IO[bytes], **options: Any) -> None:
    """Write ``figure`` with letters of any script, whole or not at all.

    Raises:
        ConfigError: The path's ending is not one of a picture.
        DiskError: The disk refuses.
    """
    if isinstance(target, Path):
        kinds = figure.canvas.get_supported_filetypes()
        kind = target.suffix.lower().lstrip(".")
        if kind not in kinds:
            raise ConfigError(f"'{target}' is no name of a picture: end it in one of .{', .'.join(sorted(kinds))}")
        buffer = io.BytesIO()
        save(figure, buffer, **{"format": kind, **options})
        write_bytes(target, buffer.getvalue())
        return
    with any_script():
        figure.savefig(target, **options)


@contextmanager
def any_script() -> Iterator[None]:
    """Draw letters that the font lacks as boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing from")
        yield


def canvas(height: float) -> tuple[Figure, Axes]:
    """Return a figure of the reports' width, ``height`` inches high."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def legend(axes: Axes, columns: int = 3) -> None:
    """Add a legend above the axes, where it hides no data."""
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False, fontsize=9, handlelength=2.2
    )
