"""`promptfed list options`: every option of a run, a method, an aggregator or a task, one line each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from promptfed.commands.option_rows import SECTIONS, OptionRow, tables
from promptfed.option import GROUPS
from promptfed.printable import printable

if TYPE_CHECKING:
    from rich.table import Table


def show_options(name: str | None, as_json: bool, is_quiet: bool = False) -> None:
    """Print the options of a run, or those that ``name`` stands for. Raise ConfigError if it stands for none."""
    from promptfed.report.consoles import output

    rows_by_title = tables(name)
    if as_json:
        typer.echo(json.dumps({title: [vars(row) for row in rows] for title, rows in rows_by_title.items()}, indent=2))
        return
    if is_quiet:
        for row in (row for rows in rows_by_title.values() for row in rows):
            typer.echo(printable(row.name))
        return
    console = output()
    for title, rows in rows_by_title.items():
        console.print(printable(title), style="bold", highlight=False, markup=False)
        console.print(_table(rows) if rows else "  no options")
    if name is None or name in GROUPS:
        console.print(
            "--set, YAML files and Python take the names as they stand here. flag: --NAME with dashes works too. "
            "resume: what --resume may change; moved: the same thing in another place.",
            highlight=False,
        )
    if name is None:
        console.print(f"One group: promptfed list options {'|'.join(GROUPS)}", highlight=False, markup=False)
    if name is None or name in SECTIONS:
        console.print("Of one method, aggregator or task: promptfed list options fedprox", highlight=False)


def _table(rows: list[OptionRow]) -> Table:
    from rich.table import Table
    from rich.text import Text

    has_flags = any(row.flag or row.resume for row in rows)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("  option", no_wrap=True)
    table.add_column("default", overflow="fold", max_width=20)
    table.add_column("meaning", overflow="fold", ratio=1)
    if has_flags:
        table.add_column("flag", no_wrap=True)
        table.add_column("resume", no_wrap=True)
    for row in rows:
        meaning = row.meaning if row.values == "text" else f"{row.meaning} ({row.values})"
        cells = [f"  {row.name}", row.default, meaning]
        table.add_row(*map(Text, [*cells, "yes" if row.flag else "", row.resume] if has_flags else cells))
    return table
