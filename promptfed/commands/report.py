"""`promptfed report`: write the report of a run or of a comparison anew, or export its table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptfed.commands import options
from promptfed.commands.exports import Export, ExportFile, check_export, write_export
from promptfed.printable import printable

if TYPE_CHECKING:
    from promptfed.report.export_table import ExportTable


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("report")(report)


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of a comparison.", metavar="RUN")],
    export: Export = None,
    export_file: ExportFile = None,
    no_samples: Annotated[
        bool, typer.Option("--no-samples", help="Leave out test examples, for a page that goes to others.")
    ] = False,
    quiet: Annotated[bool, options.quiet_option("the report's path")] = False,
    json: options.Json = False,
) -> None:
    """Write RUN/report.html anew: results, curves, clients, classes, cost. Works on unfinished runs too.

    \b
    Example:
      promptfed report runs/NAME
      promptfed report runs/NAME --no-samples
      promptfed report compared --export latex
    """
    import json as as_json

    from promptfed.comparison.saved import FILE, is_comparison, read_comparison
    from promptfed.readers.content import expected_content
    from promptfed.report.comparison_page import write_page
    from promptfed.report.html import write_report
    from promptfed.runs.directory import RunDirectory, is_run

    check_export(export, export_file, json=json)
    if export is not None:
        write_export(_table(run), export, export_file, quiet=quiet)
        return
    if is_comparison(run) and not is_run(run):
        with expected_content(f"the entries of {printable(run / FILE)}"):
            path = write_page(read_comparison(run), run)
    else:
        path = write_report(RunDirectory.open(run), with_samples=not no_samples)
    typer.echo(as_json.dumps({"report": str(path)}, indent=2) if json else printable(path))


def _table(path: Path) -> ExportTable:
    """Return the table of results of a run, or of a comparison.

    Raises:
        RunError: There is neither, or the run has no figures yet.
    """
    from promptfed.comparison.saved import is_comparison, read_comparison
    from promptfed.errors import RunError
    from promptfed.readers.content import expected_content
    from promptfed.report.export_results import comparison_table, run_table
    from promptfed.runs.directory import RunDirectory, is_run

    with expected_content(f"the figures of '{printable(path)}'"):
        if is_comparison(path) and not is_run(path):
            return comparison_table(read_comparison(path))
        metrics = RunDirectory.open(path).read_metrics()
        if metrics is None:
            raise RunError(f"run '{path}' has no figures yet: promptfed train --resume {path} takes it to its end")
        return run_table(metrics)
