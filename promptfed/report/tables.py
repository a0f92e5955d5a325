"""The table of results: zero-shot, local-only and the method, on local, base and new classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from promptfed.printable import markdown_cell, plain_text, printable
from promptfed.result_notes import flag, new_classes_line

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

LOCAL_ALL = "local (all classes)"
COLUMNS = ("local", LOCAL_ALL, "base", "new", "HM")
KEYS = {"local": "local", LOCAL_ALL: "local_all", "base": "base", "new": "new", "HM": "hm"}
"""Column -> the figure of metrics.json that stands there."""
EXPLAINED = {
    "local": "each client on its own classes, if it has two or more (mean ± standard deviation over clients)",
    LOCAL_ALL: "each client's own test examples among all training classes (likewise)",
    "base": "all training classes together",
    "new": "classes no client ever saw",
    "HM": "harmonic mean of local, base and new, low as soon as one of them is low",
}
EXPLAINED_ANSWERS = {
    **EXPLAINED,
    "local": "each client on its own test questions (mean ± standard deviation over clients)",
    "base": "all test questions together",
}
"""The same for questions with free answers, which have no classes."""
EXPLAINED_WINDOWS = {
    **EXPLAINED,
    "local": "each station's own test windows (mean ± standard deviation over stations)",
    "base": "all test windows of the stations that take part",
    "new": "those of stations that take no part",
}
"""The same for forecasts, of which one that beats the last value counts as right."""
EXPLAINED_EPISODES = {
    **EXPLAINED,
    "local": "each cell's own test episodes (mean ± standard deviation over cells)",
    "base": "all test episodes of the cells that take part",
    "new": "those of cells that take no part",
}
"""The same for episodes, of which one that beats preferred resolutions with equal shares counts as right."""
OUTCOMES = {"questions": EXPLAINED_ANSWERS, "windows": EXPLAINED_WINDOWS, "episodes": EXPLAINED_EPISODES}
"""What the examples are called -> what columns mean, where they have no classes."""
RIGHT = {
    "windows": "Test windows that are forecast better than by persistence, in %",
    "episodes": "Test episodes with a higher reward than by preferred resolutions and equal shares, in %",
}
"""What the examples are called -> what the figures are, where that is not accuracy."""
INTERVALS = "In brackets 95 % intervals: Wilson's over test examples, of local also Student's t over clients"
DOMAINS_CAPTION = (
    "Test accuracy in % by domain, all base classes together; with personal prompts, the mean over the clients' "
    "prompts. In brackets 95 % intervals (Wilson). * no client holds this domain."
)
ROWS = (
    ("random_allocation", "random"),
    ("preferred_allocation", "preferred, equal shares"),
    ("lowest_allocation", "all lowest"),
    ("expert_allocation", "searching expert"),
    ("persistence", "persistence"),
    ("yesterday", "same hour yesterday"),
    ("affine_output", "affine on output"),
    ("zero_shot", "zero-shot"),
    ("trajectory_prompt", "trajectory prompt"),
    ("description_words", "descriptions"),
    ("majority_answer", "majority answer"),
    ("question_only", "question only"),
    ("local_only", "local-only"),
    ("method", "method"),
)
"""Keys of metrics.json that are rows, and their labels if the figures have no name."""
BASELINES = tuple(key for key, _ in ROWS if key != "method")


@dataclass(frozen=True)
class ResultRow:
    """One row as text. ``note`` explains the label; ``cells`` stand under the columns; ``best`` marks the top ones.

    ``intervals`` stand below the cells, "" where there is none; ``flag`` says what is below zero-shot.
    """

    label: str
    note: str
    cells: tuple[str, ...]
    best: tuple[bool, ...]
    intervals: tuple[str, ...] = ()
    flag: str = ""


def percent(fraction: float | None) -> str:
    """Format ``0.5312`` as ``"53.1"``; None as ``"-"``."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def result_rows(metrics: Mapping[str, Any]) -> tuple[list[str], list[ResultRow]]:
    """Return columns that have a figure in some row, and the rows of zero_shot, local_only and the method."""
    stages = shown_stages(metrics)
    figures_by_row = [[_shown(figures, c) for c in COLUMNS] for _, _, figures in stages]
    columns, visible = without_empty(COLUMNS, without_repeated(figures_by_row))
    rows = []
    for (key, label, figures), cells, best in zip(stages, visible, best_cells(visible), strict=True):
        spread = [with_spread(cell, figures.get(f"{KEYS[c]}_std")) for c, cell in zip(columns, cells, strict=True)]
        ends = figures.get("intervals") or {}
        intervals = tuple(interval(ends.get(KEYS[column])) for column in columns)
        name, below = figures.get("name") or label, flag(figures.get("below_zero_shot") or ())
        rows.append(ResultRow(name, _template(metrics, key, figures), tuple(spread), best, intervals, below))
    return columns, rows


def interval(ends: Sequence[float] | None) -> str:
    """Format ``(0.512, 0.634)`` as ``"[51.2, 63.4]"``; "" for none."""
    return "" if ends is None else f"[{percent(ends[0])}, {percent(ends[1])}]"


def caption(metrics: Mapping[str, Any], columns: Sequence[str], rows: Sequence[ResultRow] = ()) -> str:
    """Return an explanation of the figures under ``columns``, and of the intervals if ``rows`` have any."""
    intervals = f" {INTERVALS}." if any(map(_has_intervals, rows)) else ""
    what = RIGHT.get(str(metrics.get("examples")), "Test accuracy in %")
    return f"{what}. {meanings(metrics, columns)}{intervals}"


def meanings(metrics: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return what the figures under ``columns`` mean, as a sentence."""
    explained = OUTCOMES.get(str(metrics.get("examples")), EXPLAINED)
    return f"{'; '.join(f'{column}: {explained[column]}' for column in columns)}."


def _has_intervals(row: ResultRow) -> bool:
    return any(row.intervals)


def notes_below(metrics: Mapping[str, Any]) -> list[str]:
    """Return the lines below the table of results: the classes held out, and the notes of the run."""
    held_out = new_classes_line(metrics.get("new_classes") or ())
    return [*([held_out] if held_out else []), *(f"note: {note}" for note in metrics.get("notes") or ())]


def without_repeated(rows: Sequence[list[str]]) -> Sequence[list[str]]:
    """Replace the second column of ``rows``, local (all classes), by dashes if it repeats the first.

    It does if every client has all classes.
    """
    return [[row[0], "-", *row[2:]] for row in rows] if all(row[0] == row[1] for row in rows) else rows


def without_empty(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Drop the columns in which every row has a dash."""
    visible = [index for index in range(len(columns)) if any(row[index] != "-" for row in rows)]
    return [columns[index] for index in visible], [tuple(row[index] for index in visible) for row in rows]


def results_table(metrics: Mapping[str, Any]) -> Table:
    """Return the table for the terminal; the best figure of each column is bold."""
    from rich.table import Table

    columns, rows = result_rows(metrics)
    table = Table(caption=caption(metrics, columns, rows), caption_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column.replace(" (", "\n("), justify="right", no_wrap=True)
    for row in rows:
        # Text, not markup: a template may hold square brackets
        label = plain_text(row.label).append(printable(f" {row.note}" if row.note else ""), style="dim")
        if row.flag:
            label.append(f"\n{row.flag}", style="yellow")
        table.add_row(label, *styled_cells(row))
    return table


def results_markdown(metrics: Mapping[str, Any]) -> str:
    """Return the table as Markdown, with the caption and the notes below it."""
    columns, rows = result_rows(metrics)
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for row in rows:
        label = f"{row.label} {row.note}".strip()
        label = markdown_cell(f"{label} ({row.flag})" if row.flag else label)
        ends = row.intervals or [""] * len(columns)
        cells = [f"{cell} {end}".strip() for cell, end in zip(row.cells, ends, strict=True)]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    below = [line for note in notes_below(metrics) for line in ("", printable(note))]
    return "\n".join([*lines, "", caption(metrics, columns, rows), *below, ""])


def domain_rows(metrics: Mapping[str, Any]) -> tuple[list[str], list[ResultRow]]:
    """Return domains (``*``: no client holds it) and a row of accuracies for each stage of ``result_rows``."""
    held_out, stages = metrics.get("held_out") or (), shown_stages(metrics)
    domains = list((metrics.get("method") or {}).get("domains") or ())
    cells = [tuple(percent((figures.get("domains") or {}).get(name)) for name in domains) for _, _, figures in stages]
    return [f"{name} *" if name in held_out else name for name in domains], [
        ResultRow(
            figures.get("name") or label,
            "",
            row_cells,
            best,
            tuple(interval((figures.get("domain_intervals") or {}).get(name)) for name in domains),
        )
        for (_, label, figures), row_cells, best in zip(stages, cells, best_cells(cells), strict=True)
    ]


def domains_table(metrics: Mapping[str, Any]) -> Table:
    """Return accuracy in each domain, as a table for the terminal."""
    from rich.table import Table

    domains, rows = domain_rows(metrics)
    table = Table(caption=DOMAINS_CAPTION, caption_justify="left")
    table.add_column("", no_wrap=True)
    for domain in domains:
        table.add_column(plain_text(domain), justify="right")
    for row in rows:
        table.add_row(plain_text(row.label), *styled_cells(row))
    return table


def styled_cells(row: ResultRow) -> list[Text]:
    """Return the cells for the terminal: the best are bold, intervals stand dim below."""
    from rich.text import Text

    cells = [Text(cell, style="bold" if best else "") for cell, best in zip(row.cells, row.best, strict=True)]
    for cell, ends in zip(cells, row.intervals, strict=False):
        if ends:
            cell.append(f"\n{ends}", style="not bold dim")
    return cells


def cross_data_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table for the terminal, a row a data set, each figure zero-shot's and then the method's."""
    from rich.table import Table

    label = next(iter(results.values()))["method"]["name"]
    rows = []
    for figures in results.values():
        pairs = [tuple(_shown(figures[key], column) for key in ("zero_shot", "method")) for column in COLUMNS]
        rows.append(["-" if pair == ("-", "-") else " > ".join(pair) for pair in pairs])
    columns, visible = without_empty(COLUMNS, rows)
    cells_by_name = {
        **EXPLAINED,
        "local": "classes of one client",
        LOCAL_ALL: "a client's own examples among all of them",
        "base": "the classes that clients train on",
        "new": "classes that no client trains on",
    }
    caption = (
        f"Test accuracy in %, zero-shot > {label}. On its own data with the clients' own prompts, elsewhere with the "
        f"shared prompt, as for somebody who never took part. {'; '.join(f'{c}: {cells_by_name[c]}' for c in columns)}."
    )
    table = Table(caption=caption, caption_justify="left")
    table.add_column("data", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, cells in zip(results, visible, strict=True):
        table.add_row(plain_text(name), *cells)
    return table


def update_words(metrics: Mapping[str, Any]) -> str:
    """Return how large a client's update is beside all weights of a language model; empty where that is not known."""
    size = metrics.get("update")
    if not size:
        return ""
    whole = 4 * size["weights"]
    return (
        f"an update: {size['numbers']:,} numbers, {size['bytes']:,} bytes; fine-tuning all {size['weights']:,} weights "
        f"would send {whole:,} bytes, {whole / size['bytes']:,.0f} times as many"
    )


def best_cells(rows: Sequence[Sequence[str]]) -> list[tuple[bool, ...]]:
    """Mark the cells with the highest number of their column; a cell is a number, possibly with more text, or "-"."""
    values = [[None if cell == "-" else float(cell.split()[0]) for cell in row] for row in rows]
    top = [max((value for value in column if value is not None), default=None) for column in zip(*values, strict=True)]
    return [tuple(v is not None and v == best for v, best in zip(row, top, strict=True)) for row in values]


def shown_stages(metrics: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return (key, label, figures) of the stages that have a row.

    A method that is itself a baseline gives one row, not two.
    """
    stages = [(key, label, metrics[key]) for key, label in ROWS if metrics.get(key)]
    method_name = (metrics.get("method") or {}).get("name")
    return [item for item in stages if item[0] == "method" or item[2].get("name") != method_name]


def _shown(figures: Mapping[str, Any], column: str) -> str:
    return percent(figures.get(KEYS[column]))


def with_spread(mean: str, spread: float | None) -> str:
    """Format ``"53.1"`` and ``0.012`` as ``"53.1 ± 1.2"``."""
    return mean if mean == "-" or spread is None else f"{mean} ± {percent(spread)}"


def _template(metrics: Mapping[str, Any], key: str, figures: Mapping[str, Any]) -> str:
    is_zero_shot = key == "zero_shot" or figures.get("name") == "zero-shot"
    if is_zero_shot and metrics.get("template"):
        return f'"{metrics["template"]}"'
    return str((metrics.get("kept_zero_shot") or {}).get(key, ""))
