"""What a ClientApp and the kept process of its site say to each other: frames of bytes over a private Unix socket.

A frame is its length in eight bytes, then that many bytes. Nothing is pickled: a frame holds JSON of plain values, or a
message as Flower serialises it, which is checked as if it came from the server.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from promptfed.errors import DeploymentError
from promptfed.files.paths import make_private_folder

LENGTH = struct.Struct(">Q")
LARGEST_WORDS = 100_000
"""Bytes of a frame of JSON."""
LARGEST_MESSAGE = 1_100_000_000
"""Bytes of a frame that holds a message; codec.LARGEST_PROMPT and the words fit."""
CHUNK = 1 << 20
LONGEST_ADDRESS = 100
"""Bytes that the path of a socket may have: 104 on macOS, 108 on Linux, with a zero at the end."""
SOCKET, LOCK, STARTING = "socket", "lock", "starting"


class ClosedError(DeploymentError):
    """The other side has ended."""


def send(connection: socket.socket, frame: bytes) -> None:
    """Send one frame. Raise ClosedError if nobody is there any more."""
    try:
        connection.sendall(LENGTH.pack(len(frame)))
        connection.sendall(frame)
    except (BrokenPipeError, ConnectionError) as error:
        raise ClosedError("the other side has ended") from error


def private_listener(address: Path) -> socket.socket:
    """Return a socket that listens at ``address``, in the place of one before it, for this user alone."""
    address.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(address))
    finally:
        os.umask(before)
    listener.listen(8)
    return listener


def receive(connection: socket.socket, largest: int) -> bytes:
    """Return the next frame. Raise ClosedError if there is none, DeploymentError if it is too large."""
    return receive_exactly(connection, checked_length(receive_exactly(connection, LENGTH.size), largest))


def checked_length(header: bytes, largest: int) -> int:
    """Return the length that the first bytes of a frame say. Raise DeploymentError if it is too large, or cut."""
    if len(header) != LENGTH.size:
        raise DeploymentError("a frame came without its length")
    [length] = LENGTH.unpack(header)
    if length > largest:
        raise DeploymentError(f"a frame of {length:,} bytes came; {largest:,} are the most")
    return int(length)


def receive_exactly(connection: socket.socket, count: int) -> bytes:
    """Return the next ``count`` bytes. Raise ClosedError if the other side ends before."""
    parts, missing = [], count
    while missing:
        try:
            part = connection.recv(min(missing, CHUNK))
        except ConnectionError as error:
            raise ClosedError("the other side has ended") from error
        if not part:
            raise ClosedError("the other side has ended")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def send_words(connection: socket.socket, words: dict[str, Any]) -> None:
    """Send plain values as a frame."""
    send(connection, json.dumps(words).encode())


def receive_words(connection: socket.socket) -> dict[str, Any]:
    """Return the plain values of the next frame. Raise ClosedError or DeploymentError as ``receive`` does."""
    try:
        words = json.loads(receive(connection, LARGEST_WORDS))
    except (ValueError, RecursionError) as error:
        raise DeploymentError("a frame came that is not JSON") from error
    if not isinstance(words, dict):
        raise DeploymentError(f"a frame came that is a JSON {type(words).__name__}, not an object")
    return words


def folder_for(state_dir: Path) -> Path:
    """Return the private folder of a site's socket, which is made if need be.

    It is ``process`` in the state directory, or a folder for temporary files where that path is too long for a socket.

    Raises:
        DeploymentError: It cannot be made, or belongs to somebody else.
    """
    folder = state_dir.absolute() / "process"
    if len(os.fsencode(folder / SOCKET)) > LONGEST_ADDRESS:
        mine = Path(tempfile.gettempdir()) / f"promptfed-{os.getuid()}"
        folder = mine / sha256(os.fsencode(folder)).hexdigest()[:16]
        _make_private(mine)
    _make_private(folder)
    return folder


def is_from_me(connection: socket.socket) -> bool:
    """Return whether the process at the other end is of this user; True where the system does not say who it is.

    The folder of the socket is closed to others there too.
    """
    try:
        if hasattr(socket, "SO_PEERCRED"):
            _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        elif sys.platform == "darwin":
            user = struct.unpack_from("2I", connection.getsockopt(0, 1, 76))[1]  # LOCAL_PEERCRED: version, user, ...
        else:
            return True
    except OSError:
        return False
    return bool(user == os.getuid())


def _make_private(folder: Path) -> None:
    try:
        make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
            raise DeploymentError(f"'{folder}' is not a folder of this user: move it away")
        if stat.S_IMODE(about.st_mode) & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise DeploymentError(f"cannot make the folder '{folder}': {error.strerror or error}") from error
