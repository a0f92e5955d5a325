"""`promptfed report`: write a run's report anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.printable import printable


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("report")(report)


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")],
    quiet: Annotated[bool, options.quiet_option("the report's path")] = False,
    json: options.Json = False,
) -> None:
    """Write RUN/report.html anew: curves, partition, per-client bars, cost. Works on unfinished runs too.

    \b
    Example:
      promptfed report runs/NAME
    """
    import json as as_json

    from promptfed.report.html import write_report
    from promptfed.runs.directory import RunDirectory

    path = write_report(RunDirectory.open(run))
    typer.echo(as_json.dumps({"report": str(path)}, indent=2) if json else printable(path))
