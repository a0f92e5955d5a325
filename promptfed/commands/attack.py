"""`promptfed attack`: attacks on one's own federation, as measuring instruments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptfed.commands import options
from promptfed.commands.attack_table import table
from promptfed.commands.opened import open_run
from promptfed.commands.plain_tables import plain_table
from promptfed.printable import printable

if TYPE_CHECKING:
    from rich.table import Table


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    attack = typer.Typer(
        no_args_is_help=True, help="Attack your own run, to measure what it withstands.", rich_markup_mode=None
    )
    attack.command("list")(list_)
    attack.command("run")(run_)
    attack.command("table")(table)
    app.add_typer(attack, name="attack")


def list_(
    quiet: Annotated[bool, options.quiet_option("the names, one a line,")] = False, json: options.Json = False
) -> None:
    """List attacks of malicious clients, and audits of finished runs: what each does, and what it knows.

    \b
    Examples:
      promptfed attack list
      promptfed list attacks alie                    its options
      promptfed train --set attack.name=alie --set attack.malicious=0.2
    """
    import json as as_json

    from rich.text import Text

    from promptfed.attack_audit import AUDITS
    from promptfed.attack_table import known_attacks
    from promptfed.report.consoles import output

    audits = {name: {"about": audit.about, "knows": audit.knows} for name, audit in AUDITS.items()}
    kinds: dict[str, dict[str, dict[str, Any]]] = {"attacks": known_attacks(), "audits": audits}
    if json:
        typer.echo(as_json.dumps(kinds, indent=2))
        return
    if quiet:
        for name in (name for rows in kinds.values() for name in rows):
            typer.echo(printable(name))
        return
    console = output()
    ways = {"attacks": "promptfed train --set attack.name=NAME", "audits": "promptfed attack run RUN --attack NAME"}
    for kind, rows in kinds.items():
        console.print(f"{kind} ({ways[kind]})", style="bold", highlight=False, markup=False)
        listing = plain_table()
        listing.add_column(kind.removesuffix("s"), no_wrap=True)
        listing.add_column("knows", no_wrap=True)
        listing.add_column("what it is", overflow="fold")
        for name, row in rows.items():
            listing.add_row(printable(name), row["knows"], Text(row["about"]))
        console.print(listing)


def run_(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.", metavar="RUN")],
    attack: Annotated[
        str, typer.Option("--attack", help="membership, labels or inversion.", metavar="NAME")
    ] = "membership",
    backbone: options.SameBackbone = None,
    trust_address: options.TrustAddress = False,
    quiet: Annotated[bool, options.quiet_option("a line a score, its name and figures,")] = False,
    json: options.Json = False,
) -> None:
    """Audit a finished run: what its prompt, or one update of a client, says of the clients' data.

    Nothing is written into the run. Updates are those that its clients would send from the prompt of round 1 and from
    the last one.

    \b
    Examples:
      promptfed attack run runs/NAME
      promptfed attack run runs/NAME --attack labels --json
    """
    import json as as_json

    from promptfed.attack_audit import audit, verdict
    from promptfed.export.finished import FinishedRun
    from promptfed.report.consoles import output
    from promptfed.report.live import live_progress

    finished = FinishedRun.load(open_run(run, backbone=backbone, trust_address=trust_address))
    with live_progress(not (quiet or json)) as progress:
        found = audit(finished, attack, progress)
    rows = audit_rows(found)
    if json:
        typer.echo(as_json.dumps(found, indent=2))
    elif quiet:
        for row in rows:
            typer.echo("\t".join(row))
    else:
        console = output()
        console.print(_audit_table(attack, rows))
        console.print(NOTES[attack], highlight=False, markup=False)
        for line in (*(f"Note: {note}." for note in found["notes"]), f"Result: {verdict(found)}."):
            console.print(line, highlight=False, markup=False)


NOTES = {
    "membership": "AUC 0.5 and TPR 0.01 are guessing. Control: the prompt before training, or another client's update.",
    "labels": "Spearman's correlation with true class counts, mean over clients; 0 is guessing.",
    "inversion": "Cosine of rebuilt and true image features; chance is another image of the class.",
}
COLUMNS = {
    "membership": ("score", "AUC", "95 %", "TPR at 1 % FPR", "95 %", "control AUC", "examples"),
    "labels": ("update", "Spearman", "95 %", "classes found", "chance"),
    "inversion": ("update", "cosine", "95 %", "chance", "labels right", "examples"),
}


def audit_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the lines of an audit, a name and its figures."""
    if found["audit"] == "membership":
        return [
            [
                name,
                f"{score['trained']['auc']:.3f}",
                _ends(score["trained"]["auc_interval"]),
                f"{score['trained']['tpr']:.3f}",
                _ends(score["trained"]["tpr_interval"]),
                f"{score['start']['auc']:.3f}",
                f"{score['trained']['members']} / {score['trained']['others']}",
            ]
            for name, score in found["scores"].items()
        ]
    if found["audit"] == "labels":
        return [
            [
                name,
                f"{u['spearman']:.2f}",
                _ends(u["spearman_interval"]),
                f"{u['found']:.2f}",
                f"{u['found_by_chance']:.2f}",
            ]
            for name, u in found["updates"].items()
        ]
    return [
        [
            name,
            f"{u['cosine']:.3f}",
            _ends(u["cosine_interval"]),
            "-" if u["cosine_by_chance"] is None else f"{u['cosine_by_chance']:.3f}",
            f"{u['labels']:.2f}",
            str(u["examples"]),
        ]
        for name, u in found["updates"].items()
    ]


def _ends(interval: list[float]) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}"


def _audit_table(attack: str, rows: list[list[str]]) -> Table:
    listing = plain_table()
    for place, column in enumerate(COLUMNS[attack]):
        listing.add_column(column, justify="right" if place else "left")
    for row in rows:
        listing.add_row(*row)
    return listing
