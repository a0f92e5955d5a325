"""Tables for papers and spreadsheets: LaTeX (booktabs), Markdown, CSV. Text of others is escaped in each."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptfed.printable import markdown_cell, printable
from promptfed.report.tables import percent

FORMATS = ("latex", "csv", "md")
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "[": "{[}", "]": "{]}", "±": r"$\pm$", "\u2212": "$-$",
    "*": r"\textasteriskcentered{}",
}  # fmt: skip
"""What LaTeX must not read itself: a bracket behind the end of a row would be its option, plain fonts lack a quote."""
FORMULAS = "=+-@\t\r"
"""A cell of a spreadsheet that begins with one of these is taken for a formula."""


@dataclass(frozen=True)
class Figure:
    """A figure in 0..1.

    Attributes:
        mean: The figure; None where there is none.
        std: Its standard deviation; None for none.
        interval: Its 95 % interval; None for none.
        is_best: It is the highest of its column.
        is_clear: It differs clearly from the reference's.
    """

    mean: float | None
    std: float | None = None
    interval: Sequence[float] | None = None
    is_best: bool = False
    is_clear: bool = False

    @property
    def half(self) -> float | None:
        """Return half the width of an interval that is even on both sides; None for another one."""
        if self.interval is None or self.mean is None:
            return None
        low, high = self.interval
        return (high - low) / 2 if abs((low + high) / 2 - self.mean) < 1e-9 else None


@dataclass(frozen=True)
class ExportTable:
    """A table.

    Attributes:
        columns: Names of the figures.
        rows: (name, label, figures, other values by name).
        caption: What the figures are.
        key: Names the table in references.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, str, Sequence[Figure], Mapping[str, Any]]]
    caption: str
    key: str


def exported(table: ExportTable, kind: str) -> str:
    """Return ``table`` as text of one of ``FORMATS``."""
    return {"latex": _latex, "csv": _csv, "md": _markdown}[kind](table)


def latex_text(text: object) -> str:
    """Return ``text`` so that LaTeX prints it as it is."""
    return "".join(LATEX.get(letter, letter) for letter in printable(text))


def _latex(table: ExportTable) -> str:
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}[t]",
        r"  \centering",
        rf"  \caption{{{latex_text(table.caption)}}}",
        rf"  \label{{tab:{''.join(letter if letter.isascii() and letter.isalnum() else '-' for letter in table.key)}}}",
        rf"  \begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"    \toprule",
        f"    Method & {' & '.join(map(latex_text, table.columns))} \\\\",
        r"    \midrule",
        *(f"    {latex_text(label)} & {' & '.join(map(_latex_cell, cells))} \\\\" for _, label, cells, _ in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_cell(figure: Figure) -> str:
    if figure.mean is None:
        return "--"
    mean = rf"\mathbf{{{percent(figure.mean)}}}" if figure.is_best else percent(figure.mean)
    star = r"^{\ast}" if figure.is_clear else ""
    if figure.half is not None:
        return rf"${mean}{star} \pm {percent(figure.half)}$"
    if figure.interval is not None:
        low, high = map(percent, figure.interval)
        return rf"${mean}{star}$ {{\scriptsize $[{low}, {high}]$}}"
    return f"${mean}{star}$"


def _markdown(table: ExportTable) -> str:
    lines = [f"| method | {' | '.join(map(markdown_cell, table.columns))} |", f"|---|{'---:|' * len(table.columns)}"]
    for _, label, cells, _ in table.rows:
        lines.append(f"| {markdown_cell(label)} | {' | '.join(map(_markdown_cell, cells))} |")
    return "\n".join([*lines, "", printable(table.caption)]) + "\n"


def _markdown_cell(figure: Figure) -> str:
    if figure.mean is None:
        return "-"
    mean = f"**{percent(figure.mean)}**" if figure.is_best else percent(figure.mean)
    star = r"\*" if figure.is_clear else ""
    if figure.half is not None:
        return f"{mean}{star} ± {percent(figure.half)}"
    if figure.interval is not None:
        low, high = map(percent, figure.interval)
        return f"{mean}{star} [{low}, {high}]"
    return f"{mean}{star}"


def _csv(table: ExportTable) -> str:
    """Return a line a row; figures are in 0..1, as in the JSON."""
    names = dict.fromkeys(name for *_, others in table.rows for name in others)
    parts = ("mean", "std", "low", "high")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["method", "label", *(f"{c}_{part}" for c in map(_field, table.columns) for part in parts), *names])
    for name, label, cells, others in table.rows:
        values: list[object] = [_csv_text(name), _csv_text(label)]
        for figure in cells:
            values += [figure.mean, figure.std, *(figure.interval or (None, None))]
        writer.writerow([*values, *(others.get(each) for each in names)])
    return stream.getvalue()


def _field(column: str) -> str:
    return "_".join("".join(letter if letter.isalnum() else " " for letter in column.lower()).split())


def _csv_text(text: str) -> str:
    shown = printable(text)
    return f"'{shown}" if shown.startswith(tuple(FORMULAS)) else shown
