"""`promptfed eval`: test figures of a run, on its own data and on others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.commands.flags import Flags, with_flags
from promptfed.commands.opened import ASKED, open_run
from promptfed.printable import printable

FIGURES = ("local", "base", "new", "hm")


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("eval")(eval_)


@with_flags(("data_root", "partition", *ASKED))
def eval_(
    flags: Flags,
    run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="Another data set; may be given several times.", metavar="SOURCE"),
    ] = None,
    measures: Annotated[
        str | None,
        typer.Option("--measures", help="Figures beside accuracy, with commas: promptfed list measures.", metavar="M"),
    ] = None,
    backbone: options.SameBackbone = None,
    trust_address: options.TrustAddress = False,
    quiet: Annotated[bool, options.quiet_option("a line a data set, its name, local, base, new and HM")] = False,
    json: options.Json = False,
) -> None:
    """Score a run's prompts on the test examples again, and on other data sets'.

    On the run's own data each client has its own prompt. Another data set is dealt out by the run's rules to as many
    clients as fit it: nobody there took part, so all have the run's shared prompt, which meets their classes as new
    names. Zero-shot stands beside it, its template chosen on the validation examples of the same data.

    \b
    Examples:
      promptfed eval runs/NAME
      promptfed eval runs/NAME --measures macro_f1,top_k:3,nll
      promptfed eval runs/NAME --data folder:other-photos
      promptfed eval runs/NAME --data folder:photos --data folder:sketches --json
      promptfed eval runs/NAME --data tsv:other-texts.tsv          of a black-box run
    """
    import json as as_json

    from promptfed.cross_dataset import evaluate_on
    from promptfed.export.finished import FinishedRun
    from promptfed.report.consoles import output
    from promptfed.report.live import live_progress
    from promptfed.report.measure_table import measure_table
    from promptfed.report.tables import cross_data_table, domains_table, percent, results_table

    oracle_flags = {name: flags[name] for name in ASKED}
    folder = open_run(run, backbone=backbone, trust_address=trust_address, **oracle_flags)
    finished = FinishedRun.load(folder)
    changed = options.given({name: flags[name] for name in ("data_root", "partition")})
    with live_progress(not (quiet or json)) as progress:
        rows = evaluate_on(finished, data or (), changed, progress, measures)
    if json:
        typer.echo(as_json.dumps(rows, indent=2))
        return
    if quiet:
        for name, figures in rows.items():
            typer.echo("\t".join([printable(name), *(percent(figures["method"].get(key)) for key in FIGURES)]))
        return
    console = output()
    if len(rows) > 1:
        console.print(cross_data_table(rows))
    for name, figures in rows.items():
        if len(rows) == 1:
            console.print(results_table(figures))
        if figures["method"]["domains"]:
            console.print(f"by domain of {name}:", highlight=False, markup=False)
            console.print(domains_table(figures))
        if figures.get("measures"):
            console.print(f"other measures of {name}:", highlight=False, markup=False)
            console.print(measure_table(figures))
