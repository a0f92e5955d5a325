"""`promptfed site start`: Flower's node with what makes a round short, and nothing that calls home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from promptfed.deployment import frames, ready_process
from promptfed.deployment.flower_failures import answer_for_failed_apps
from promptfed.deployment.flower_waits import look_every, shorten_waits_for_parts
from promptfed.deployment.kept_process import keep_seconds
from promptfed.errors import DeploymentError, MissingPackageError

ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
}
"""What is set for a node unless the operator's environment says otherwise."""
LOOK_SECONDS = 0.5
"""Between two looks for messages; Flower's own node looks every three seconds."""


@dataclass(frozen=True)
class Node:
    """What the operator says about a node.

    Attributes:
        words: The ``--node-config`` as it was typed.
        superlink: HOST:PORT of the server.
        root_certificates: The certificate of the server's authority; None: no TLS.
        key: The private key of the node; None where nodes need not show one.
        port: The port of the node's own, on 127.0.0.1.
    """

    words: str
    superlink: str
    root_certificates: Path | None = None
    key: Path | None = None
    port: int = 9094

    @property
    def command(self) -> list[str]:
        """The command of Flower that this node is."""
        trust = ["--root-certificates", str(self.root_certificates)] if self.root_certificates else ["--insecure"]
        key = ["--auth-supernode-private-key", str(self.key)] if self.key else []
        place = ["--superlink", self.superlink, "--host", "127.0.0.1", "--port", str(self.port)]
        return ["flower-supernode", *trust, *key, *place, "--node-config", self.words]


def start(node: Node, node_config: Mapping[str, Any], look_seconds: float = LOOK_SECONDS) -> None:
    """Run the node in this process, until it is ended.

    Args:
        node: What the operator says.
        node_config: The words, parsed.
        look_seconds: Between two looks for messages.

    Raises:
        MissingPackageError: Flower is not installed here.
        DeploymentError: The private folder of the site cannot be made.
    """
    programs = entry_points(group="console_scripts", name=node.command[0])
    if not programs:
        raise MissingPackageError("flower-supernode is not installed here: pip install 'promptfed[flower]'")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    ready = _begin_ready(Path(str(node_config["state-dir"]))) if _is_quick(node_config) else None
    try:
        run = next(iter(programs)).load()
        look_every(look_seconds)
        shorten_waits_for_parts()
        answer_for_failed_apps()
        sys.argv = node.command
        run()
    finally:
        if ready is not None:
            ready.terminate()


def _is_quick(node_config: Mapping[str, Any]) -> bool:
    """Return whether copies of a loaded process are used: with a kept process, where forking is safe."""
    return bool(keep_seconds(node_config)) and sys.platform == "linux"


def _begin_ready(state_dir: Path) -> subprocess.Popen[bytes] | None:
    """Start the process that is copied for each message, and put its program first in PATH.

    A site whose folder cannot be used does without: each message then loads Flower.
    """
    own = shutil.which(ready_process.NAME)
    if own is None:
        return None
    folder = frames.folder_for(state_dir)
    try:
        os.environ["PATH"] = os.pathsep.join([str(ready_process.write_program(folder, own)), os.environ["PATH"]])
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "promptfed.deployment.ready_process"], stdin=subprocess.PIPE
        )
    except OSError as error:
        raise DeploymentError(f"cannot prepare '{folder}': {error.strerror or error}") from error
    assert process.stdin is not None
    with process.stdin, suppress(BrokenPipeError):
        process.stdin.write(json.dumps({"folder": str(folder), "node": os.getpid()}).encode())
    return process


def shown(command: Sequence[str]) -> str:
    """Return a command as it can be typed."""
    import shlex

    return shlex.join(command)
