"""Servers that the user has named on this machine, and the variable that holds each one's key.

A bundle, a run or a config file is data, perhaps a stranger's: it may say which server it was made with, and it is the
user who says where to connect. An address that was given on a command line (``--base-url``, ``--ray-address``) or
confirmed (``--trust-address``) is remembered here, as ssh remembers hosts, with the key's variable given beside it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from promptfed.errors import ConfigError, FormatError
from promptfed.files import strict_json
from promptfed.printable import LONGEST, printable
from promptfed.readers.json_reader import read_json

FILE = "trusted_addresses.json"
PROVIDERS = {
    "api.openai.com": "OPENAI_API_KEY",
    "openrouter.ai": "OPENROUTER_API_KEY",
    "api.mistral.ai": "MISTRAL_API_KEY",
    "api.groq.com": "GROQ_API_KEY",
    "api.together.xyz": "TOGETHER_API_KEY",
    "api.deepseek.com": "DEEPSEEK_API_KEY",
    "api.x.ai": "XAI_API_KEY",
    "api.anthropic.com": "ANTHROPIC_API_KEY",
    "generativelanguage.googleapis.com": "GEMINI_API_KEY",
}
"""Host -> the variable that its users keep their key in. No other address has a key that goes without saying."""


def default_key_variable(address: str | None) -> str | None:
    """Return the variable that holds the key of ``address``, if its provider has one; only over https."""
    try:
        parts = urlsplit(address or "")
        host = parts.hostname
    except ValueError:
        return None
    return PROVIDERS.get(host or "") if parts.scheme == "https" else None


def normal_address(address: str) -> str:
    """Return ``address`` in one way of writing: two that say the same server are equal."""
    try:
        parts = urlsplit(address.strip())
        host, port = (parts.hostname or "").lower().rstrip("."), parts.port
    except ValueError:
        return address.strip()
    if not parts.scheme or not host:
        return address.strip().rstrip("/")
    host = "127.0.0.1" if host in ("localhost", "::1") else host
    usual = {"http": 80, "https": 443}.get(parts.scheme.lower())
    host_part = f"[{host}]" if ":" in host else host
    return f"{parts.scheme.lower()}://{host_part}:{port or usual or ''}{parts.path.rstrip('/')}"


def is_local_file(weights: str) -> bool:
    """Return whether ``weights`` is a file or folder of this machine, and no name of a hub or a tag.

    ``weights`` is the part of a model's name behind the colon.
    """
    weights = weights.removeprefix("clip-hf:")
    if weights.startswith(("/", ".", "~")) or "\\" in weights or weights.count("/") > 2:
        return True
    if weights.startswith("open_clip:"):
        place = weights.removeprefix("open_clip:")
        if place.startswith("local-dir:") or "tokenizer=" in place:
            return True
        weights = place.removeprefix("hf-hub:") if place.startswith("hf-hub:") else place.partition("/")[2]
    if weights.endswith((".pt", ".pth", ".bin", ".safetensors")) or weights.startswith(("/", ".", "~")):
        return True
    try:
        return Path(weights).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return True


def trust(address: str, key_variable: str | None = None) -> None:
    """Remember that the user named ``address``, with the variable of its key if one was named beside it.

    A folder that cannot be written costs the memory only: the address has to be given again.
    """
    servers, name = _known(), normal_address(address)
    if key_variable is None or key_variable not in os.environ:
        key_variable = None  # it may be a key in the wrong place, which is written down nowhere
    entry = key_variable or servers.get(name)
    if name in servers and servers[name] == entry:
        return
    with suppress(OSError):
        folder = trust_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = folder / f".{FILE}.{os.getpid()}"
        draft.unlink(missing_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(strict_json.dumps({"addresses": {**servers, name: entry}}, indent=2) + "\n")
        draft.replace(folder / FILE)


def is_trusted(address: str) -> bool:
    """Return whether the user has named ``address`` on this machine."""
    return normal_address(address) in _known()


def key_variable_of(address: str | None) -> str | None:
    """Return the variable that the user named for ``address``, else the default of its provider, else None."""
    return (_known().get(normal_address(address)) if address else None) or default_key_variable(address)


def admitted(
    options: Mapping[str, Any],
    what: str,
    *,
    base_url: str | None = None,
    api_key_env: str | None = None,
    trust_address: bool = False,
    strict: bool = True,
) -> dict[str, Any]:
    """Return the oracle's ``options``, which ``what`` names, with the address and key variable that may be used.

    Args:
        options: Options out of a file.
        what: Where they are from, for the message.
        base_url: The address on the command line, which takes the place of the file's.
        api_key_env: The variable on the command line; the file's own is never used unless the user named it before.
        trust_address: The user confirms the file's address.
        strict: Refuse a variable that the user did not name, instead of leaving it out.

    Raises:
        ConfigError: The address, or the variable, was never named by the user.
    """
    address, key_variable = base_url or options.get("base_url"), options.get("api_key_env")
    if address is not None:
        address = str(address)
        if base_url is not None or trust_address:
            trust(address, api_key_env)
        elif not is_trusted(address):
            raise ConfigError(
                f"{what} names the server '{printable(address, LONGEST)}', which you have not used here before: "
                "nothing was sent. If you trust it with your texts: --trust-address; or name yours by --base-url URL"
            )
    variable = api_key_env or key_variable_of(address)
    if strict and key_variable is not None and key_variable != variable:
        raise ConfigError(
            f"{what} names the environment variable '{printable(key_variable, 60)}' for the key, which you have not "
            "used with this server before: nothing was read or sent. Say which one holds its key by --api-key-env NAME"
        )
    return {**options, "base_url": address, "api_key_env": variable}


def check_cluster(address: str | None, what: str, typed: str | None) -> None:
    """Check the Ray cluster that ``what`` names: its head runs code on this machine.

    Raises:
        ConfigError: The user has never named it by --ray-address.
    """
    if typed is not None:
        trust(f"ray:{typed}")
    elif address not in (None, "auto", "local") and not is_trusted(f"ray:{address}"):
        raise ConfigError(
            f"{what} names the Ray cluster '{printable(address, LONGEST)}', which you have not used here before: a "
            "cluster runs code on this machine. If you trust it, give it by --ray-address"
        )


def trust_folder() -> Path:
    """Return the folder of what the user trusts: ``PROMPTFED_CONFIG``, else the user's config folder."""
    return Path(os.environ.get("PROMPTFED_CONFIG") or platformdirs.user_config_dir("promptfed"))


def _known() -> dict[str, str | None]:
    try:
        content = read_json(trust_folder() / FILE)
    except (OSError, FormatError):
        return {}
    entries = content.get("addresses") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        return {}
    return {str(name): value if isinstance(value, str) else None for name, value in entries.items()}
