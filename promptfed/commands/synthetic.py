"""`promptfed synthetic`: what the synthetic texts of a run are good for, and what they give away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptfed.commands import options
from promptfed.commands.opened import open_run
from promptfed.commands.plain_tables import plain_table

if TYPE_CHECKING:
    from rich.table import Table


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("synthetic")(synthetic)


def synthetic(
    run: Annotated[Path, typer.Argument(help="A run's folder, of method private_evolution or fedpit.", metavar="RUN")],
    method: Annotated[
        str, typer.Option("--method", help="The prompt method that is trained on the texts.", metavar="NAME")
    ] = "fedprompt",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Its rounds.", metavar="N")] = 5,
    canaries: Annotated[
        int, typer.Option("--canaries", min=0, max=1000, help="Texts that are planted; 0: none.", metavar="N")
    ] = 10,
    repeat: Annotated[
        int, typer.Option("--repeat", min=1, max=100, help="How often a client holds its canary.", metavar="N")
    ] = 1,
    backbone: options.SameBackbone = None,
    quiet: Annotated[bool, options.quiet_option("a line a figure, its name and value,")] = False,
    json: options.Json = False,
) -> None:
    """Report on the synthetic texts of a run: accuracy, nearness to real texts, epsilon and canaries.

    It is for whoever holds all data, in a simulation: it reads real texts, and writes nothing into the run. A prompt
    is trained on the synthetic texts, on the real ones of a client, and on those of all clients. Canaries are random
    texts. The run's federation is trained again with them, and its texts are searched for them.

    \b
    Examples:
      promptfed synthetic runs/NAME
      promptfed synthetic runs/NAME --canaries 20 --repeat 5 --json
      promptfed export runs/NAME --client 0 --format texts --out synthetic       the texts
    """
    import json as as_json

    from promptfed.export.finished import FinishedRun
    from promptfed.report.consoles import output
    from promptfed.synthetic_report import SyntheticReport, verdict

    def progress(words: str) -> None:
        if not (quiet or json):
            typer.echo(f"training {words}", err=True)

    report = SyntheticReport(FinishedRun.load(open_run(run, backbone=backbone)), progress)
    figures = report.all(method=method, rounds=rounds, canaries=canaries, repeat=repeat)
    rows = figure_rows(figures)
    if json:
        typer.echo(as_json.dumps(figures, indent=2))
    elif quiet:
        for name, value in rows:
            typer.echo(f"{name}\t{value}")
    else:
        console = output()
        console.print(_table(rows))
        if figures["canaries"]:
            console.print(f"Result: {verdict(figures)}.", highlight=False, markup=False)


def figure_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the figures of a report, a name and a value each."""
    accuracy, nearness, privacy = report["accuracy"], report["nearness"], report["privacy"]
    texts, name = report["texts"], accuracy["method"]
    rows = [
        ("zero-shot", _percent(accuracy["zero_shot"])),
        (f"{name} on {texts} synthetic texts", _percent(accuracy["synthetic"])),
        (f"{name} on the real texts of one client (mean of {accuracy['local_clients']})", _percent(accuracy["local"])),
        (f"{name} on all {accuracy['pooled_texts']} real texts", _percent(accuracy["pooled"])),
        ("synthetic texts that quote a real one", f"{nearness['quoting']} of {texts}"),
        ("synthetic texts with a cosine above 0.95 to a real one", f"{nearness['near']} of {texts}"),
        ("cosine to the nearest real text, mean and highest", _pair(nearness["nearest_mean"], nearness)),
        ("epsilon", _epsilon(privacy)),
    ]
    if canaries := report["canaries"]:
        trained, control = canaries["trained"], canaries["control"]
        low, high = trained["auc_interval"]
        rows += [
            ("synthetic texts that quote a planted canary", f"{canaries['quoting']} of {canaries['texts']}"),
            (
                f"exposure of {canaries['planted']} canaries, mean and highest, in bits",
                f"{trained['exposure']:.2f} and {trained['exposure_highest']:.2f}",
            ),
            (
                "exposure by chance, and the most there is",
                f"{trained['exposure_by_chance']:.2f} and {trained['exposure_possible']:.2f}",
            ),
            (
                f"median rank of a canary among {canaries['references']} that were not planted",
                f"{trained['median_rank']:.0f}",
            ),
            ("AUC of planted and other canaries", f"{trained['auc']:.2f} ({low:.2f} to {high:.2f})"),
            ("the same by texts of the run without canaries", f"{control['auc']:.2f}"),
            (
                "least epsilon that canaries show (of a text, not of a client), and the most they can",
                f"{canaries['epsilon_shown']:.2f} and {canaries['epsilon_possible']:.2f}",
            ),
        ]
    return rows


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _pair(mean: float, nearness: Mapping[str, Any]) -> str:
    return f"{mean:.2f} and {nearness['nearest_highest']:.2f}"


def _epsilon(privacy: Mapping[str, Any]) -> str:
    if privacy["differential_privacy"] == "none":
        return "none: no differential privacy"
    if not privacy["has_statement"]:
        return "not known: go on with the run first"
    if privacy["epsilon"] is None:
        return "none: there is no noise"
    return f"{privacy['epsilon']:.2f}, delta {privacy['delta']:g} (a client's whole data)"


def _table(rows: list[tuple[str, str]]) -> Table:
    listing = plain_table()
    listing.add_column("figure")
    listing.add_column("value", justify="right")
    for row in rows:
        listing.add_row(*row)
    return listing
