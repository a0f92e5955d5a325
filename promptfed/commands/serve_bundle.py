"""`promptfed serve`: bundles behind HTTP."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptfed.commands import options
from promptfed.commands.flags import Flags, with_flags
from promptfed.commands.opened import ASKED
from promptfed.printable import printable

if TYPE_CHECKING:
    from promptfed.serving.server import BundleServer


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("serve")(serve)


@with_flags((*ASKED, "max_calls", "max_usd"))
def serve(
    flags: Flags,
    bundles: Annotated[list[Path], typer.Argument(help="Folders of bundles, all for one model.", metavar="BUNDLE...")],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; others than this machine's need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    token_env: Annotated[
        str | None,
        typer.Option("--token-env", help="Environment variable with a token that is asked for [none].", metavar="NAME"),
    ] = None,
    max_batch: Annotated[
        int, typer.Option("--max-batch", help="Examples that go through the model together.", metavar="N")
    ] = 16,
    max_wait: Annotated[
        float, typer.Option("--max-wait", help="Milliseconds that a request waits for others.", metavar="MS")
    ] = 4.0,
    max_queue: Annotated[
        int, typer.Option("--max-queue", help="Examples that may wait; more are refused (503).", metavar="N")
    ] = 256,
    max_files: Annotated[int, typer.Option("--max-files", help="Examples in a request.", metavar="N")] = 16,
    max_file_mb: Annotated[float, typer.Option("--max-file-mb", help="Size of a file.", metavar="MB")] = 10.0,
    max_megapixels: Annotated[
        float, typer.Option("--max-megapixels", help="Size of a decoded image, in millions of pixels.", metavar="N")
    ] = 25.0,
    answer_seconds: Annotated[
        float, typer.Option("--answer-seconds", help="How long an answer may take (504).", metavar="S")
    ] = 30.0,
    backbone: options.SameBackbone = None,
    oracle: Annotated[
        str | None, typer.Option("--oracle", help="The same black box under another name, such as local:OTHER-PATH.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or auto.")] = "cpu",
    trust_address: options.TrustAddress = False,
    quiet: Annotated[bool, options.quiet_option("the address")] = False,
    json: options.Json = False,
) -> None:
    """Serve bundles over HTTP: classes of images or texts, with batching, limits and a page of documentation.

    POST /v1/classify takes files (multipart) or JSON; /docs describes it all and works offline. Only this machine can
    reach it unless --host says otherwise. Nothing of a request is kept, on disk or in a log. Needs pip install
    'promptfed[serve]'. Ctrl-C ends it once the requests that are under way are answered.

    \\b
    Examples:
      promptfed serve bundle                              http://127.0.0.1:8000/docs
      curl http://127.0.0.1:8000/v1/classify -F files=@photo.jpg -F threshold=0.6
      promptfed serve ward-a ward-b --port 0 --quiet      two bundles of one model, a free port
      TOKEN=$(openssl rand -hex 16) promptfed serve bundle --host 0.0.0.0 --token-env TOKEN
    """
    from promptfed.serving.limits import ServeLimits
    from promptfed.serving.server import BundleServer, token_from
    from promptfed.serving.service import Service

    token = token_from(token_env)
    limits = ServeLimits(
        max_batch=max_batch,
        max_wait_ms=max_wait,
        max_queue=max_queue,
        max_files=max_files,
        max_file_mb=max_file_mb,
        max_request_mb=max(32.0, max_file_mb),
        max_megapixels=max_megapixels,
        answer_seconds=answer_seconds,
    )
    changed = {name: value for name, value in flags.items() if value is not None}
    service = Service.of(
        bundles, limits, backbone=backbone, oracle=oracle, device=device, trust_address=trust_address, **changed
    )
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with BundleServer(service, host, port, token).start() as server:
        _announce(server, quiet, json)
        # Waiting without an end would not notice signals on every system.
        while not ended.wait(0.5):
            pass
    if not (quiet or json):
        typer.echo("stopped")


def _announce(server: BundleServer, quiet: bool, json: bool) -> None:
    """Print where the server is."""
    import json as as_json

    service = server.service
    if json:
        facts = {"address": server.address, "model": service.model.name, "bundles": service.digests}
        typer.echo(as_json.dumps(facts, indent=2))
    elif quiet:
        typer.echo(server.address)
    else:
        names = ", ".join(printable(name) for name in service.bundles)
        typer.echo(f"serving {names} ({printable(service.model.name)}) at {server.address}; Ctrl-C ends it")
        typer.echo(f"  {server.address}/docs describes it")
