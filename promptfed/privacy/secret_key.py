"""The secret of a private run: 32 bytes in its folder, from which noise and participants are derived.

Whoever knows the key can take the noise away again. It lies in ``privacy.key``, readable by its owner alone, and goes
into no configuration, checkpoint, event, bundle or log. ``config.seed`` is no such secret: every site is sent it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import Any, NoReturn

from promptfed.errors import RunError
from promptfed.files.atomic import PRIVATE, naming, write_bytes

KEY_FILE = "privacy.key"
KEY_BYTES = 32


class Secret:
    """Base of values that hold secret bytes: printing shows none, and pickle refuses."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, not shown>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is never pickled: it would leave the process")


class SecretKey(Secret):
    """A run's secret. ``reveal`` is the only way to the bytes."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes):
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(secret)}")
        self._secret = bytes(secret)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretKey) and hmac.compare_digest(self._secret, other._secret)

    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> SecretKey:
        return self

    def __deepcopy__(self, memo: object) -> SecretKey:
        return self

    def reveal(self) -> bytes:
        """Return the 32 bytes; they are for a key derivation, never for a file or a message."""
        return self._secret

    @property
    def fingerprint(self) -> str:
        """64 hex digits that tell this key from others and give nothing of it away."""
        return self.keyed_hash(b"promptfed key fingerprint").hex()

    def keyed_hash(self, content: bytes) -> bytes:
        """Return HMAC-SHA256 of ``content``, 32 bytes that tell nothing of it without the key."""
        return hmac.new(self._secret, content, hashlib.sha256).digest()


def create_key(folder: Path) -> SecretKey:
    """Make the key of a new run, write it to ``folder``/privacy.key with mode 0600 and return it.

    Raises RunError if there is a key already: other noise under the same results would undo both.
    """
    path = folder / KEY_FILE
    if os.path.lexists(path):
        raise RunError(f"{path} exists: a run has one key, and goes on with it; choose another --run DIR")
    key = SecretKey(secrets.token_bytes(KEY_BYTES))
    write_bytes(path, key.reveal(), PRIVATE)
    with naming(path):  # the process's mask can only have taken rights away: the owner gets theirs back
        path.chmod(PRIVATE)
    return key


def key_of_run(folder: Path, is_begun: bool) -> SecretKey:
    """Return the key of the run in ``folder``: a new one only if it is not begun and has none.

    Raises RunError as ``read_key`` does.
    """
    return read_key(folder) if is_begun or os.path.lexists(folder / KEY_FILE) else create_key(folder)


def read_key(folder: Path) -> SecretKey:
    """Return the key of the run in ``folder``.

    Raises RunError if it is missing, a link, of another size, or readable by others.
    """
    path = folder / KEY_FILE
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if path.is_symlink():  # where the system has no O_NOFOLLOW
            raise RunError(f"{path} is a link: a private run's key is a file of its own folder")
        handle = os.open(path, flags)
    except FileNotFoundError:
        raise RunError(f"a private run cannot go on without its {KEY_FILE}: {path} is missing") from None
    except OSError as error:
        raise RunError(f"a private run cannot go on without its {KEY_FILE}: {path}: {error.strerror}") from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size != KEY_BYTES:
            raise RunError(f"{path} is damaged: a key is a file of {KEY_BYTES} bytes")
        if os.name == "posix" and status.st_mode & 0o077:
            raise RunError(f"{path} can be read by others, who could take the noise away: chmod 600 it")
        return SecretKey(os.read(handle, KEY_BYTES))
    finally:
        os.close(handle)
