"""A real OpenAI-compatible server on this machine, for trying and testing the remote path: llama.cpp by xllamacpp.

``start_server`` runs one in this process (`promptfed serve-oracle`), ``serving`` in a process of its own.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from promptfed.errors import BackboneError, ConfigError, FormatError, OracleError, reason
from promptfed.readers.files import open_regular

HOST = "127.0.0.1"
"""The local address, which other machines cannot reach."""
SLOTS = 4
"""Requests that are worked on at once."""
CONTEXT = 2048
"""Tokens of a request, answer included."""
READY_SECONDS = 300.0
"""How long ``serving`` waits; the first start puts Gemma's file together."""


@dataclass(frozen=True)
class Served:
    """Address of a server, for --base-url and --model. ``server`` stops when it is released."""

    base_url: str
    model: str
    server: Any = None


def model_file(model: str) -> tuple[Path, str]:
    """Return the GGUF file of ``gemma`` or of a path, and the name that it is served under.

    Raises:
        BackboneError: There is no such file, or it is no GGUF file.
    """
    if model == "gemma":
        from promptfed.language_models.gemma import packaged_gguf

        return packaged_gguf(), "gemma"
    path = Path(model).expanduser()
    try:
        with open_regular(path) as file:
            is_gguf = file.read(4) == b"GGUF"
    except FormatError as error:
        raise BackboneError(f"cannot read model: {error}; give gemma, or a GGUF file") from error
    except OSError as error:
        raise BackboneError(f"cannot read model '{model}' ({error.strerror}): give gemma, or a GGUF file") from error
    if not is_gguf:
        raise BackboneError(f"'{model}' is not a GGUF file, which is what can be served: give gemma, or a GGUF file")
    return path.resolve(), path.stem


def start_server(model: str, port: int = 0, *, api_key: str | None = None, prompt_cache: bool = False) -> Served:
    """Serve ``model`` on ``port`` (0: a free one) from threads of this process, until the result is released.

    With ``prompt_cache`` a model with a sliding window (Gemma) keeps all of a request, so that the next one that begins
    alike is computed from where it differs. Without, llama.cpp computes those whole; it keeps those of other models.

    Raises:
        BackboneError: xllamacpp or the model is missing.
        OracleError: The server does not start.
    """
    path, name = model_file(model)
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError as error:
        raise BackboneError("serving a model needs xllamacpp: pip install 'promptfed[gemma]'") from error
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port} is not a port: give 1 to 65535, or 0 for a free one")
    options = xllamacpp.CommonParams()
    options.model.path, options.model_alias = str(path), {name}
    options.hostnames, options.port = [HOST], port
    options.n_parallel, options.n_ctx = SLOTS, SLOTS * CONTEXT
    options.swa_full = prompt_cache
    # No page of a web browser may ask it, nothing but errors is logged, and there is no web interface.
    options.cors_origins, options.verbosity, options.ui = f"http://{HOST}", 1, False
    if api_key:
        options.api_keys = [api_key]
    try:
        server = xllamacpp.Server(options)
        address = server.listening_address
    except Exception as error:  # xllamacpp raises what llama.cpp throws
        text = reason(error)
        raise OracleError(
            f"the server for '{name}' did not start on port {port} ({text}); is the port in use? --port takes another"
        ) from error
    return Served(f"{address}/v1", name, server)


@contextmanager
def serving(model: str = "gemma", *, api_key_env: str | None = None, prompt_cache: bool = False) -> Iterator[Served]:
    """Serve ``model`` by a process of its own on a free port while the block runs.

    Raises:
        OracleError: It does not become ready.
    """
    command = [sys.executable, "-P", "-m", "promptfed.cli", "serve-oracle", "--model", model, "--port", "0"]
    command += ["--api-key-env", api_key_env] if api_key_env else []
    command += ["--prompt-cache"] if prompt_cache else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        base_url = _announced(process)
        _wait_until_ready(base_url, process)
        yield Served(base_url, model if model == "gemma" else Path(model).stem)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _announced(process: subprocess.Popen[str]) -> str:
    """Return the address in the first line that the command prints."""
    assert process.stdout is not None
    for line in process.stdout:
        words = [word for word in line.split() if word.startswith("http://")]
        if words:
            return words[0]
    raise OracleError("the server ended before it was ready: run `promptfed serve-oracle` to see why")


def _wait_until_ready(base_url: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urlopen(base_url.removesuffix("/v1") + "/health", timeout=5) as reply:
                if reply.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.1)
    raise OracleError(f"the server at {base_url} did not become ready")
