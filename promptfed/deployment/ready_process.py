"""A process with Flower's ClientApp loaded, of which a copy is made for every message.

Loading Flower takes a second or two of work for each message, on every site. This process loads it once and forks. It
has a single thread, and loads no torch. Flower finds the program ``flwr-clientapp`` of a site's private folder, which
hands its command and its streams over and waits; if nobody listens it becomes Flower's own program.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

from promptfed.deployment import frames
from promptfed.deployment.flower_failures import steady_heartbeats
from promptfed.deployment.flower_waits import shorten_waits_for_parts
from promptfed.errors import DeploymentError

NAME = "flwr-clientapp"
SOCKET = "ready"
LOOK_SECONDS = 0.5
"""Between two looks at whether the node is still there."""
REAP_SECONDS = 0.02
"""Between two looks for copies that have ended."""
PROGRAM = """\
import os, socket, sys
FOLDER, PYTHON, FLOWER = {folder!r}, {python!r}, {flower!r}
try:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as ready:
        ready.connect(FOLDER + "/{socket}")
        words = "\\0".join(sys.argv[1:]).encode()
        socket.send_fds(ready, [len(words).to_bytes(8, "big")], [0, 1, 2])
        ready.sendall(words)
        code = ready.recv(1)
except OSError:
    code = b""
if code:
    sys.exit(code[0])
os.execv(PYTHON, [PYTHON, FLOWER, *sys.argv[1:]])
"""


def write_program(folder: Path, flower: str) -> Path:
    """Write the program that a node finds in the place of Flower's.

    Args:
        folder: The private folder of the site.
        flower: The path of Flower's own ``flwr-clientapp``.

    Returns:
        The folder to put first in PATH.
    """
    place = folder / "bin"
    place.mkdir(mode=0o700, exist_ok=True)
    code = PROGRAM.format(folder=str(folder), python=sys.executable, flower=flower, socket=SOCKET)
    (place / "hand_over.py").write_text(code)
    words = f'exec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(place / "hand_over.py"))} "$@"'
    (place / NAME).write_text(f"#!/bin/sh\n{words}\n")
    (place / NAME).chmod(0o700)
    return place


def serve(folder: Path, node: int, run: Callable[[], object]) -> None:
    """Make a copy of this process for each command that comes, until the process ``node``, its parent, has ended.

    Args:
        folder: The private folder of the site.
        node: The process of the node.
        run: What a copy does, with the command as ``sys.argv``.
    """
    address = folder / SOCKET
    with frames.private_listener(address) as listener:
        waiting: dict[int, socket.socket] = {}
        while os.getppid() == node:
            ready, _, _ = select.select([listener], [], [], REAP_SECONDS if waiting else LOOK_SECONDS)
            if ready:
                connection, _ = listener.accept()
                if (copy := _copy(connection, listener, run)) is not None:
                    waiting[copy] = connection
            while waiting and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with waiting.pop(ended[0]) as connection, suppress(OSError):
                    connection.sendall(bytes([os.waitstatus_to_exitcode(ended[1]) & 0xFF]))
    address.unlink(missing_ok=True)


def _copy(connection: socket.socket, listener: socket.socket, run: Callable[[], object]) -> int | None:
    """Fork for one command. Return the copy's number; None for a command that does not come whole."""
    streams: list[int] = []
    try:
        connection.settimeout(10)
        if not frames.is_from_me(connection):
            raise DeploymentError("another user may not ask")
        length, streams, _, _ = socket.recv_fds(connection, frames.LENGTH.size, 3)
        words = frames.receive_exactly(connection, frames.checked_length(length, frames.LARGEST_WORDS))
        if len(streams) != 3:
            raise DeploymentError("a command came without its streams")
        copy = os.fork()
    except (DeploymentError, OSError):
        connection.close()
        copy = None
    if copy == 0:
        _work(connection, listener, streams, words.decode(), run)
    for stream in streams:
        os.close(stream)
    return copy


def _work(
    connection: socket.socket, listener: socket.socket, streams: list[int], words: str, run: Callable[[], object]
) -> NoReturn:
    """Do in a copy what the program would have done, and end it."""
    code = 1
    try:
        listener.close()
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        sys.argv = [NAME, *words.split("\0")]
        run()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Load Flower's program and this site's ClientApp, and serve the node that is named on standard input."""
    settings = json.loads(sys.stdin.buffer.read())
    [program] = entry_points(group="console_scripts", name=NAME)
    run = program.load()
    import promptfed.deployment.client  # noqa: F401

    shorten_waits_for_parts()
    steady_heartbeats()

    serve(Path(settings["folder"]), settings["node"], run)


if __name__ == "__main__":
    main()
