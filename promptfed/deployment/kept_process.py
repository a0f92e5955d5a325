"""The kept process of a site, as the ClientApp sees it: found or started, asked, and started again if it died.

There is one process for a state directory. It is replaced if it was started by another node, by other words of the
operator, or by another version of promptfed. What this file imports stays light.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from promptfed.deployment import frames
from promptfed.deployment.process_tree import started
from promptfed.errors import DeploymentError

KEEP_SECONDS = 600.0
"""How long a site's process waits for the next message, unless the node's words have keep-process-seconds."""
COMMAND = ("-P", "-m", "promptfed.deployment.site_process")
ATTEMPTS = 3
"""How often one question is given to processes that die with it."""
GREETING_SECONDS, START_SECONDS = 60.0, 120.0
"""How long a process may take to greet, and a new one to begin to listen, on a busy machine."""


class NoProcessError(DeploymentError):
    """No process can be kept here: the question is to be answered in this one."""


class DiedError(DeploymentError):
    """The process ended with the question each time."""


def keep_seconds(node_config: Mapping[str, Any]) -> float:
    """Return how long a node's words have the process kept without a message; 0 for not at all, and on Windows."""
    seconds = node_config.get("keep-process-seconds", KEEP_SECONDS)
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    possible = hasattr(socket, "AF_UNIX") and os.name == "posix" and isinstance(node_config.get("state-dir"), str)
    return float(seconds) if is_number and seconds > 0 and possible else 0.0


@dataclass(frozen=True)
class KeptProcess:
    """The kept process of one site.

    Attributes:
        folder: The private folder with its socket.
        node_config: The words of the node's operator.
        keep: Seconds without a message after which it ends itself.
        anchor: The process that started this one, with the time of its start: the kept one ends with it.
        command: What Python is started with.
    """

    folder: Path
    node_config: Mapping[str, Any]
    keep: float
    anchor: tuple[int, str]
    command: Sequence[str] = field(default=COMMAND)

    @classmethod
    def of(cls, node_config: Mapping[str, Any]) -> KeptProcess:
        """Return the kept process of the site with these words. Raise NoProcessError if there can be none."""
        parent = os.getppid()
        start = started(parent)
        if start is None:
            raise NoProcessError("it cannot be seen who started this process")
        try:
            folder = frames.folder_for(Path(str(node_config["state-dir"])))
        except DeploymentError as error:
            raise NoProcessError(str(error)) from error
        return cls(folder, node_config, keep_seconds(node_config), (parent, start))

    @property
    def greeting(self) -> dict[str, Any]:
        """What this side says first. A process that was started with anything else is replaced."""
        words = json.dumps(dict(self.node_config), sort_keys=True)
        return {
            "promptfed": version("promptfed"),
            "words": sha256(words.encode()).hexdigest(),
            "anchor": list(self.anchor),
        }

    def ask(self, question: bytes, began: float) -> bytes:
        """Return the answer to ``question``.

        Args:
            question: A message as Flower serialises it.
            began: When the work on it began, in seconds of ``time.monotonic``.

        Raises:
            NoProcessError: No process can be started.
            DiedError: It ended with the question, ATTEMPTS times.
        """
        for _ in range(ATTEMPTS):
            with self._connected() as connection, suppress(frames.ClosedError):
                frames.send_words(connection, {"began": began})
                frames.send(connection, question)
                return frames.receive(connection, frames.LARGEST_MESSAGE)
        raise DiedError(
            f"the process of this site ended {ATTEMPTS} times in the middle of one message: too little memory?"
            " keep-process-seconds=0 in the node's words starts one for each message"
        )

    # ---------------------------------------------------------------------------------------------- inside

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        """Connect to the process, which is started if need be."""
        with _only_one(self.folder / frames.STARTING):
            connection = self._greeted(GREETING_SECONDS) or self._start()
        with connection:
            yield connection

    def _start(self) -> socket.socket:
        settings = {
            "folder": str(self.folder),
            "node_config": dict(self.node_config),
            "keep": self.keep,
            "greeting": self.greeting,
        }
        try:
            process = subprocess.Popen(
                [sys.executable, *self.command], stdin=subprocess.PIPE, start_new_session=True, close_fds=True
            )
            assert process.stdin is not None
            with process.stdin:
                process.stdin.write(json.dumps(settings).encode())
        except OSError as error:
            raise NoProcessError(f"it cannot be started: {error.strerror or error}") from error
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and process.poll() is None:
            if connection := self._greeted(GREETING_SECONDS):
                return connection
            time.sleep(0.02)
        ended = "it does not listen" if process.poll() is None else f"it ended with code {process.returncode}"
        if process.poll() is None:
            process.kill()
        raise NoProcessError(ended)

    def _greeted(self, seconds: float) -> socket.socket | None:
        """Connect to a process that fits; None if there is none, or the wrong one, which ends itself then."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(seconds)
        try:
            connection.connect(str(self.folder / frames.SOCKET))
            if frames.is_from_me(connection):
                frames.send_words(connection, self.greeting)
                if frames.receive_words(connection) == {"fits": True}:
                    connection.settimeout(None)
                    return connection
        except (OSError, DeploymentError):
            pass
        connection.close()
        return None


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the lock ``path``: two messages at the same time start one process."""
    import fcntl

    with path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
