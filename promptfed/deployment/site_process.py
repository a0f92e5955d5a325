"""The kept process of a site: torch, promptfed and the model stay loaded between messages.

Started by a ClientApp (promptfed.deployment.kept_process) with its settings on standard input. It ends itself after
some time without a message, by SIGTERM, when what started its node's processes is gone, or when it is greeted by a node
with other words or another version of promptfed. It may be killed at any time, as a process for one message may.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from promptfed.deployment import frames
from promptfed.deployment.process_tree import kill_all, started
from promptfed.errors import DeploymentError

Answer = Callable[[bytes, float | None], bytes]
LOOK_SECONDS = 0.5
"""Between two looks at whether the node is still there."""
PREDECESSOR_SECONDS = 10.0
"""How long the process before this one may take to end, before it is killed."""
LONGEST_SECONDS = 1e6
SLOW_SECONDS = 60.0
"""How long a ClientApp may take to send its question."""


def main(build: Callable[[Mapping[str, Any]], Answer]) -> None:
    """Read the settings from standard input, and serve until there is no more reason to.

    Args:
        build: Makes of the words of the node's operator what answers a question. It is called after a ClientApp can
            connect, as it takes long.
    """
    settings = json.loads(sys.stdin.buffer.read())
    sys.stdin.close()
    process = SiteProcess(Path(settings["folder"]), settings["greeting"], settings["keep"])
    process.listen()
    process.serve(build(settings["node_config"]))


class SiteProcess:
    """Answers the questions of one node, one after the other.

    Questions are taken by threads and answered by the main thread, whose number of torch threads is the run's.
    """

    def __init__(self, folder: Path, greeting: Mapping[str, Any], keep: float) -> None:
        self.folder, self.greeting, self.keep = folder, greeting, min(keep, LONGEST_SECONDS)
        self._questions: queue.SimpleQueue[tuple[socket.socket, float | None, bytes]] = queue.SimpleQueue()

    def listen(self) -> None:
        """Take the place of the process before this one, and let ClientApps connect."""
        signal.signal(signal.SIGTERM, lambda *_: self.end())
        self._lock = self._held_lock()
        self._listener = frames.private_listener(self.folder / frames.SOCKET)
        self._listener.settimeout(LOOK_SECONDS)
        threading.Thread(target=self._accept, daemon=True).start()

    def serve(self, answer: Answer) -> None:
        """Answer questions until none has come for ``keep`` seconds."""
        while True:
            try:
                connection, began, question = self._questions.get(timeout=self.keep)
            except queue.Empty:
                self.end()
            with connection:
                if not _has_left(connection):
                    reply = answer(question, began)
                    with suppress(DeploymentError, OSError):  # whoever asked may be gone, and asks again
                        frames.send(connection, reply)

    def end(self) -> NoReturn:
        """End this process at once, in the middle of work too: what it writes is written whole or not at all."""
        with suppress(OSError):
            (self.folder / frames.SOCKET).unlink(missing_ok=True)
        os._exit(0)

    # ---------------------------------------------------------------------------------------------- inside

    def _accept(self) -> None:
        """Take connections, and look whether the node is still there."""
        pid, start = self.greeting["anchor"]
        looked = 0.0
        while True:
            with suppress(TimeoutError):
                connection, _ = self._listener.accept()
                threading.Thread(target=self._take, args=(connection,), daemon=True).start()
            if time.monotonic() - looked > LOOK_SECONDS / 2:
                looked = time.monotonic()
                if started(pid) != start:
                    self.end()

    def _take(self, connection: socket.socket) -> None:
        """Greet one ClientApp, and take its question."""
        connection.settimeout(SLOW_SECONDS)
        try:
            if not frames.is_from_me(connection):
                raise DeploymentError("another user may not ask")
            fits = frames.receive_words(connection) == self.greeting
            frames.send_words(connection, {"fits": fits})
            if not fits:
                self.end()
            began = frames.receive_words(connection).get("began")
            question = frames.receive(connection, frames.LARGEST_MESSAGE)
        except (DeploymentError, OSError):
            connection.close()
            return
        connection.settimeout(None)
        self._questions.put((connection, began if isinstance(began, float) else None, question))

    def _held_lock(self) -> Any:
        """Hold the lock of the site's process. One before that does not end is killed."""
        lock = (self.folder / frames.LOCK).open("a+b")
        end = time.monotonic() + PREDECESSOR_SECONDS
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > end:
                kill_all(_named_in(lock))
            time.sleep(0.05)
        lock.truncate(0)
        lock.write(json.dumps({"process": os.getpid(), "started": started(os.getpid())}).encode())
        lock.flush()
        return lock


def _named_in(lock: Any) -> dict[int, str]:
    """Return the process that a lock's file names, with the time of its start."""
    lock.seek(0)
    try:
        about = json.loads(lock.read(frames.LARGEST_WORDS))
        return {int(about["process"]): str(about["started"])}
    except (ValueError, LookupError, TypeError):
        return {}


def _has_left(connection: socket.socket) -> bool:
    """Return whether the other side of a connection has closed it."""
    ready, _, _ = select.select([connection], [], [], 0)
    return bool(ready) and not connection.recv(1, socket.MSG_PEEK)


def site_answers(node_config: Mapping[str, Any]) -> Answer:
    """Return what answers the questions of a site. It loads torch."""
    from promptfed.deployment.site_answer import SiteAnswers

    return SiteAnswers(node_config).answer_bytes


if __name__ == "__main__":
    main(site_answers)
