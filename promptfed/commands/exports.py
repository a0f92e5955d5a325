"""``--export`` of `promptfed compare` and `promptfed report`: the table of results for a paper or a spreadsheet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptfed.commands.flags import one_of
from promptfed.errors import ConfigError, unknown_name
from promptfed.printable import printable

if TYPE_CHECKING:
    from promptfed.report.export_table import ExportTable

KINDS = ("latex", "csv", "md")
Export = Annotated[
    str | None,
    typer.Option(
        "--export",
        help="Print the table of results as LaTeX (booktabs), CSV or Markdown, and nothing else.",
        metavar="latex|csv|md",
        autocompletion=one_of(KINDS),
    ),
]
ExportFile = Annotated[
    Path | None,
    typer.Option(
        "--export-file", help="With --export: write the table to this file, not to the output.", metavar="FILE"
    ),
]


def check_export(kind: str | None, file: Path | None, *, json: bool) -> None:
    """Raise ConfigError for a kind that is none, or for options that do not go together."""
    if kind is None and file is not None:
        raise ConfigError(f"--export-file goes with --export: say which, {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if kind is not None and kind not in KINDS:
        raise unknown_name("kind of export", kind, KINDS)
    if kind is not None and json:
        raise ConfigError("--export and --json print different things: leave one of them out")
    if file is not None and file.is_dir():
        raise ConfigError(f"--export-file '{file}' is a folder: give a file in it")


def write_export(table: ExportTable, kind: str, file: Path | None, *, quiet: bool) -> None:
    """Print ``table``, or write it to ``file`` and print the path (with ``quiet`` too: a script may want it)."""
    from promptfed.files.atomic import write_text
    from promptfed.report.export_table import exported

    text = exported(table, kind)
    if file is None:
        typer.echo(text, nl=False)
        return
    write_text(file, text)
    typer.echo(printable(file) if quiet else f"written to {printable(file)}")
