"""Tokens for plug-ins that a run may load without ``--plugin``: this user has loaded them for it on this machine.

A run's own files cannot say so, because a run may be a stranger's. A token in the user's state folder does: a file that
only the user can read and write, named by the run's identity, with each plug-in's file and its SHA-256. A plug-in is
loaded by a token only if its file is unchanged and the run names the same SHA-256.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

import platformdirs

from promptfed.errors import FormatError, RunError
from promptfed.files import strict_json
from promptfed.files.atomic import PRIVATE, write_bytes
from promptfed.plugins import is_file_name, load_plugin, module_file, plugin_file, present_plugins
from promptfed.printable import printable
from promptfed.readers.json_reader import parse_json
from promptfed.runs.directory import RunDirectory
from promptfed.runs.passport import read_passport

log = logging.getLogger(__name__)


def token_folder() -> Path:
    """Return the folder of tokens: ``PROMPTFED_STATE``, else the user's state folder."""
    return Path(os.environ.get("PROMPTFED_STATE") or platformdirs.user_state_dir("promptfed")) / "plugins_of_runs"


def remember_plugins(run: RunDirectory) -> None:
    """Write the token of ``run``, if its plug-ins are loaded with the very code that it names.

    If the folder cannot be written, the plug-ins have to be named again next time.
    """
    present, names = present_plugins(), run.config.plugins
    identity = _identity(run)
    if not names or not identity or any(present.get(name) != digest for name, digest in names.items()):
        return
    plugins = {name: {"sha256": digest, "file": plugin_file(name)} for name, digest in names.items()}
    if _read(identity) == plugins:
        return
    with suppress(OSError):
        token_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(token_folder() / f"{identity}.json", (strict_json.dumps(plugins) + "\n").encode(), PRIVATE)


def load_remembered_plugins(run: RunDirectory) -> None:
    """Load the plug-ins of ``run`` that have a token; skip the others silently.

    Raises:
        ConfigError: A plug-in of the token fails.
    """
    names = [name for name in run.config.plugins if name not in present_plugins()]
    if not names or not (identity := _identity(run)):
        return
    token = _read(identity)
    for name in names:
        about = token.get(name, {})
        digest = run.config.plugins[name]
        if digest and about.get("sha256") == digest and _is_unchanged(name, about.get("file", ""), digest):
            log.info("plug-in %s is loaded: this user made the run with it", printable(name))
            load_plugin(name)


def _is_unchanged(name: str, file: str, digest: str) -> bool:
    """Return whether ``name`` still leads to ``file`` with the SHA-256 ``digest``; imports nothing."""
    location = name if is_file_name(name) else module_file(name)
    if not file or location != file:
        return False
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _identity(run: RunDirectory) -> str:
    """Return the identity of ``run``, fit for a file's name; empty if it has none."""
    try:
        identity = str(read_passport(run).get("run", ""))
    except RunError:
        return ""
    return identity if re.fullmatch("[0-9a-f]{32}", identity) else ""


def _read(identity: str) -> dict[str, dict[str, str]]:
    """Return plug-in -> its SHA-256 and file; empty without a token, and for one that others can read or write."""
    path = token_folder() / f"{identity}.json"
    try:
        about = os.lstat(path)
        is_own = not hasattr(os, "getuid") or (about.st_uid == os.getuid() and not about.st_mode & 0o077)
        if not stat.S_ISREG(about.st_mode) or not is_own:
            return {}
        content = parse_json(path.read_bytes())
    except (OSError, FormatError):
        return {}
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        return {}
    return {name: {key: str(value) for key, value in entry.items()} for name, entry in content.items()}
