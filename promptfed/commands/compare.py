"""`promptfed compare`: several methods on the same data, seeds and budget."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.commands.attack_table import MALICIOUS, RULES, show_table
from promptfed.commands.exports import Export, ExportFile, check_export, write_export
from promptfed.commands.flags import Flags, run_flags, with_flags
from promptfed.errors import ConfigError
from promptfed.printable import printable


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("compare")(compare)


@with_flags(run_flags(without=("method", "baselines")), only_common=True)
def compare(
    flags: Flags,
    methods: Annotated[
        str | None,
        typer.Option("--methods", help="Comma-separated names, or all; the baselines come along.", metavar="A,B"),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Number of seeds, from --seed on.", metavar="N")] = 3,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder; the same one goes on [a fresh one under runs/].", metavar="DIR"),
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            help="Values to try for every method that has the option, judged on validation examples.",
            metavar="method.KEY=V,V",
        ),
    ] = None,
    fix_partition: Annotated[
        bool, typer.Option("--fix-partition", help="The same partition for all seeds; only the training differs.")
    ] = False,
    attacks: Annotated[
        str | None,
        typer.Option(
            "--attacks", help="Attacks of malicious clients, to compare server rules under: attack list.", metavar="A,B"
        ),
    ] = None,
    aggregators: Annotated[
        str | None,
        typer.Option("--aggregators", help=f"With --attacks: the server rules [{RULES}].", metavar="A,B"),
    ] = None,
    malicious: Annotated[
        float | None,
        typer.Option(
            "--malicious",
            help=f"With --attacks: the share of malicious clients [{MALICIOUS}].",
            min=0,
            max=1,
            metavar="F",
        ),
    ] = None,
    config: options.ConfigFile = None,
    set_: options.Set = None,
    observer: options.Observers = None,
    export: Export = None,
    export_file: ExportFile = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Compare methods fairly: the same partitions, budget and cached features for all, over several seeds.

    Seed s trains with --seed s on --partition-seed s. A method is given those --set options that it knows; one that
    does not fit the backbone or oracle is left out with the reason. Writes comparison.json, .md, .html and .png into
    the folder, beside the run directories METHOD/seed-S; of a black box also queries.png, accuracy against queries.
    --export prints the table for a paper; promptfed report DIR --export does so later.

    \b
    Examples:
      promptfed compare --methods promptfl,fedtpg,kgcoop --seeds 3 --out compared
      promptfed compare --methods promptfl,kgcoop --out compared --export latex --export-file table.tex
      promptfed compare --methods all --client-batch 8 --search method.lr=0.003,0.01,0.03
      promptfed compare --task blackbox-text --methods fedbpt,fedavg_bbt --set method.queries=160 --out asked
      promptfed compare --methods promptfl,feddpt --task clip-domains --set task.held_out="phosphor thin"
      promptfed compare --attacks signflip,minmax,backdoor --aggregators mean,median,krum --clients 10 --rounds 8

    With --attacks one method is trained under every pair of attack and server rule, as in promptfed attack table.

    Ctrl-C stops after the client that is under way; the same command with the same --out goes on.
    """
    import json as as_json

    from promptfed.comparison.folder import comparison_folder
    from promptfed.comparison.plan import Plan, parse_grid
    from promptfed.report.comparison import comparison_tables
    from promptfed.report.consoles import output
    from promptfed.report.export_results import comparison_table
    from promptfed.report.live_comparison import live_comparison
    from promptfed.runner import carry_out_comparison, stop_on_ctrl_c
    from promptfed.training import Interrupted

    check_export(export, export_file, json=json)
    names = [name.strip() for name in (methods or "").split(",") if name.strip()]
    if attacks is not None:
        if len(names) > 1 or search or fix_partition or observer or export:
            raise ConfigError(
                "--attacks compares server rules: name one method, without --search, --fix-partition, "
                "--observer and --export"
            )
        given = {**flags, "method": names[0]} if names else flags
        share = MALICIOUS if malicious is None else malicious
        made = options.config_from(given, config, set_)
        show_table(made, attacks, aggregators or RULES, share, seeds, out, quiet=quiet, json=json)
        return
    if aggregators is not None or malicious is not None:
        raise ConfigError("--aggregators and --malicious go with --attacks; --aggregator sets one rule for all methods")
    if not names:
        raise ConfigError("--methods names none: give names with commas between them, or all")
    plan = Plan.make(
        options.config_from(flags, config, set_),
        names,
        seeds,
        fix_partition=fix_partition,
        grid=parse_grid(search or []),
    )
    with (
        comparison_folder(out) as folder,
        live_comparison(not (quiet or json)) as progress,
        stop_on_ctrl_c(progress.note) as should_stop,
    ):
        try:
            summary, pages = carry_out_comparison(plan, folder, progress, should_stop, observers=observer or ())
        except Interrupted as stopped:
            progress.note(
                f"stopped: {stopped.where}. Saved; go on with the same command and --out {shlex.quote(str(folder))}"
            )
            raise SystemExit(stopped.code) from stopped  # said already: a bare 130 is a Ctrl-C that nobody spoke of
    if export is not None:
        write_export(comparison_table(summary), export, export_file, quiet=quiet)
    elif json:
        typer.echo(as_json.dumps({**summary, "out": str(folder)}, indent=2))
    elif quiet:
        typer.echo(printable(folder))
    else:
        console = output()
        for table in comparison_tables(summary):
            console.print(table)
        for path in pages:
            console.print(str(path), highlight=False, soft_wrap=True)
