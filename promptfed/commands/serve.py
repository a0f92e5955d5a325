"""`promptfed serve-oracle`: a language model behind an OpenAI-compatible API on this machine."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from promptfed.commands import options
from promptfed.errors import ConfigError

if TYPE_CHECKING:
    from promptfed.blackbox.oracles.remote.server import Served


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("serve-oracle")(serve_oracle)


def serve_oracle(
    model: Annotated[str, typer.Option("--model", help="gemma, or a GGUF file.", metavar="gemma|FILE.gguf")] = "gemma",
    port: Annotated[
        int, typer.Option("--port", help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)
    ] = 8080,
    api_key_env: Annotated[
        str | None,
        typer.Option("--api-key-env", help="Environment variable with a key that is asked for [none].", metavar="NAME"),
    ] = None,
    prompt_cache: Annotated[
        bool,
        typer.Option(
            "--prompt-cache",
            help="Keep whole requests, so that what the next one begins with is computed once (models with a sliding "
            "window, such as gemma; scores then differ a little).",
        ),
    ] = False,
    quiet: Annotated[bool, options.quiet_option("the address")] = False,
    json: options.Json = False,
) -> None:
    """Serve a language model on this machine as an OpenAI-compatible API, to try `--oracle api` at home.

    Only this machine can reach it (127.0.0.1). It offers /v1/completions and /v1/chat/completions, both with
    log-probabilities. Needs pip install 'promptfed[gemma]'. Ctrl-C ends it.

    \b
    Examples:
      promptfed serve-oracle                               Gemma 3 270M at http://127.0.0.1:8080/v1
      promptfed serve-oracle --model my-model.gguf --port 8081
    """
    from promptfed.blackbox.oracles.remote.server import start_server

    key = None
    if api_key_env is not None:
        key = os.environ.get(api_key_env)
        if not key:
            raise ConfigError(
                f"environment variable {api_key_env} is not set: put the key into it, or leave the option out"
            )
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    served = start_server(model, port, api_key=key, prompt_cache=prompt_cache)
    _announce(served, api_key_env, quiet, json)
    # Waiting without an end would not notice signals on every system.
    while not ended.wait(1.0):
        pass
    if not (quiet or json):
        typer.echo("stopped")


def _announce(served: Served, api_key_env: str | None, quiet: bool, json: bool) -> None:
    """Print where the model ``served`` is, and what to do with it."""
    import json as as_json

    if json:
        typer.echo(as_json.dumps({"base_url": served.base_url, "model": served.model}, indent=2))
        return
    if quiet:
        typer.echo(served.base_url)
        return
    typer.echo(f"serving {served.model} at {served.base_url} for this machine alone; Ctrl-C ends it. In another shell:")
    more = f" --api-key-env {api_key_env}" if api_key_env else ""
    typer.echo(
        f"  promptfed train --task blackbox-text --method fedbdpl --oracle api --base-url {served.base_url} "
        f"--model {served.model}{more}"
    )
