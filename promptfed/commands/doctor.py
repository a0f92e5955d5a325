"""`promptfed doctor`: what is in order on this machine, and how to mend the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from promptfed.commands import options
from promptfed.printable import printable

if TYPE_CHECKING:
    from promptfed.health.check import Check

BROKEN = 1
"""Exit code if something is broken."""


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("doctor")(doctor)


def doctor(
    online: Annotated[
        bool, typer.Option("--online", help="Also try to reach the model hub. Nothing is sent, and nothing else tried.")
    ] = False,
    quiet: Annotated[bool, options.quiet_option("what is broken")] = False,
    json: options.Json = False,
) -> None:
    """Look at this installation: versions, devices, places, offline models, extras, network names, variables.

    ok is in order, note is missing and not everybody needs it, FAIL is broken; what to do stands behind the arrow. The
    exit code is 1 if anything is broken. No network is used without --online.

    \b
    Examples:
      promptfed doctor
      promptfed doctor --online
      promptfed doctor --json > report.json            for a report of a fault
    """
    import json as as_json

    found, part = [], ""
    for check in checks(online):
        found.append(check)
        if json or (quiet and check.state != "FAIL"):
            continue
        if check.part != part and not quiet:
            typer.echo(f"{check.part}:")
            part = check.part
        typer.echo(printable(str(check) if quiet else f"  {check}"))
    if json:
        typer.echo(as_json.dumps([vars(check) for check in found], indent=2))
    broken = sum(check.state == "FAIL" for check in found)
    if not (json or quiet):
        typer.echo(f"{broken} broken" if broken else "all is well")
    if broken:
        raise typer.Exit(BROKEN)


def checks(is_online: bool) -> Iterator[Check]:
    """Yield all checks, the slow ones last in their part."""
    from promptfed.health.machine import device_checks, place_checks, system_checks
    from promptfed.health.models import model_checks
    from promptfed.health.network import environment_checks, network_checks
    from promptfed.health.packages import extra_checks, package_checks, registry_checks

    parts: Iterable[Iterable[Check]] = (
        system_checks(), device_checks(), package_checks(), registry_checks(), place_checks(), model_checks(),
        extra_checks(), network_checks(is_online), environment_checks(),
    )  # fmt: skip
    for part in parts:
        yield from part
