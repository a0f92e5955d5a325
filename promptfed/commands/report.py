"""`promptfed report`: write a run's report anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptfed.printable import printable


def add_to(app: typer.Typer) -> None:
    app.command("report")(report)


def report(run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")]) -> None:
    """Write RUN/report.html anew: curves, partition, per-client bars, cost. Works on unfinished runs too.

    \b
    Example:
      promptfed report runs/NAME
    """
    from promptfed.report.html import write_report
    from promptfed.runs.directory import RunDirectory

    typer.echo(printable(write_report(RunDirectory.open(run))))
