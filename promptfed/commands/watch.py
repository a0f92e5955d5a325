"""`promptfed watch`: runs live in a browser, on this machine alone."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptfed.commands import options

if TYPE_CHECKING:
    from promptfed.watching.server import WatchServer

RUNS = Path("runs")


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("watch")(watch)


def watch(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Runs, or folders with runs, such as that of a comparison [runs].", metavar="RUNS..."),
    ] = None,
    port: Annotated[int, typer.Option("--port", help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 0,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    quiet: Annotated[bool, options.quiet_option("the address")] = False,
    json: options.Json = False,
) -> None:
    """Follow runs on one page: progress, curves side by side, clients, messages and cost, as they happen.

    The page reads the runs' event logs, so it shows running and finished runs alike, those of a Flower server too, and
    a run that begins later in a folder appears. A run whose process is gone shows since when. Only this machine can
    reach it, by the address with the token that is printed. Nothing outside the folders is read. Ctrl-C ends it.

    \b
    Examples:
      promptfed watch                            all runs in runs/
      promptfed watch runs/NAME runs/OTHER       two runs side by side
      promptfed watch compared --port 8900 --open
    """
    from promptfed.watching.server import WatchServer

    if runs is None or not runs:
        runs = [RUNS]
        if not RUNS.exists():
            RUNS.mkdir()  # the first run begins here
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with WatchServer(runs, port) as server:
        _announce(server, quiet, json)
        if open_:
            import webbrowser

            webbrowser.open(server.address)
        # Waiting without an end would not notice signals on every system.
        while not ended.wait(0.5):
            pass
    if not (quiet or json):
        typer.echo("stopped")


def _announce(server: WatchServer, quiet: bool, json: bool) -> None:
    """Print where the page is."""
    import json as as_json

    if json:
        typer.echo(as_json.dumps({"address": server.address}, indent=2))
    elif quiet:
        typer.echo(server.address)
    else:
        typer.echo(f"watching at {server.address} for this machine alone; Ctrl-C ends it")
