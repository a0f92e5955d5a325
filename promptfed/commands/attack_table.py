"""`promptfed attack table`, which is `promptfed compare --attacks` too: attacks against server rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.commands.flags import Flags, run_flags, with_flags
from promptfed.config import RunConfig
from promptfed.errors import ConfigError
from promptfed.printable import printable

RULES = "mean,median,krum"
MALICIOUS = 0.2
CELLS, PAGE = "attacks.json", "attacks.md"

Attacks = Annotated[
    str, typer.Option("--attacks", help="Comma-separated, with options as alie:z=1.5:knows=group.", metavar="A,B")
]
Aggregators = Annotated[
    str,
    typer.Option("--aggregators", help="Comma-separated names; each is told how many are malicious.", metavar="A,B"),
]
Malicious = Annotated[float, typer.Option("--malicious", help="Share of malicious clients.", min=0, max=1, metavar="F")]


@with_flags(run_flags(without=("aggregator", "baselines", "engine", "actors", "ray_address")), only_common=True)
def table(
    flags: Flags,
    attacks: Attacks,
    aggregators: Aggregators = RULES,
    malicious: Malicious = MALICIOUS,
    seeds: Annotated[int, typer.Option("--seeds", help="Means over so many seeds.", min=1, metavar="N")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the table; the same one goes on [none].", metavar="DIR")
    ] = None,
    config: options.ConfigFile = None,
    set_: options.Set = None,
    quiet: Annotated[bool, options.quiet_option("a line a pair, attack, rule and figures,")] = False,
    json: options.Json = False,
) -> None:
    """Set attacks against server rules: base accuracy of each pair, and a backdoor's rate of success (ASR).

    Every pair is a federation of its own in this process, with the same data, seed and malicious clients. With --out
    each figure is saved as it comes, and the same command goes on after Ctrl-C; the table is attacks.md there.

    \b
    Examples:
      promptfed attack table --attacks signflip,alie,minmax,backdoor:boost=5 --clients 10 --rounds 8
      promptfed attack table --attacks labelflip --aggregators mean,median,krum,centered_clip --malicious 0.3 --seeds 3
    """
    show_table(
        options.config_from(flags, config, set_), attacks, aggregators, malicious, seeds, out, quiet=quiet, json=json
    )


def show_table(
    config: RunConfig,
    attacks: str,
    aggregators: str,
    malicious: float,
    seeds: int,
    out: Path | None,
    *,
    quiet: bool,
    json: bool,
) -> None:
    """Make the table and print it; with ``out``, save each figure as it comes.

    Raises:
        ConfigError: A name or a value is wrong, or ``out`` has a table of other options.
    """
    import json as as_json
    from contextlib import ExitStack

    from promptfed.attack_cells import Cell
    from promptfed.attack_table import attack_table, cell_text
    from promptfed.attack_table import markdown as as_markdown
    from promptfed.comparison.folder import comparison_folder
    from promptfed.files.atomic import write_text
    from promptfed.report.consoles import output
    from promptfed.report.live import live_progress

    if malicious >= 1:
        raise ConfigError(f"--malicious is {malicious:g}: give a share from 0 to below 1")
    names, rules = ([part.strip() for part in text.split(",") if part.strip()] for text in (attacks, aggregators))
    shown = output()

    def on_cell(cell: Cell) -> None:
        if quiet:
            typer.echo("\t".join([printable(cell.attack), cell.rule, cell_text(cell)]))
        elif not json:
            why = f" {cell.problem}" if cell.problem else f", {cell.refused} updates refused" if cell.refused else ""
            line = f"{printable(cell.rule)} under {printable(cell.attack)}: {cell_text(cell)}{printable(why)}"
            shown.print(line, highlight=False, markup=False)

    with ExitStack() as stack:
        folder = None if out is None else stack.enter_context(comparison_folder(out))
        progress = stack.enter_context(live_progress(False))
        saved = None if folder is None else folder / CELLS
        try:
            cells = attack_table(config, names, rules, malicious, seeds, on_cell, progress, saved)
        except KeyboardInterrupt:
            if folder is None:
                raise
            where = f"stopped. What was measured is saved; go on with the same command and --out {printable(folder)}"
            typer.echo(where, err=True)
            raise SystemExit(130) from None
        text = as_markdown(cells)
        if folder is not None:
            write_text(folder / PAGE, text)
    if json:
        typer.echo(as_json.dumps([cell.recorded() for cell in cells], indent=2))
    elif not quiet:
        shown.print(text, highlight=False, markup=False)
