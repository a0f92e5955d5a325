"""The key of a server: read from the environment when it is needed, and kept out of everything that is written."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from promptfed.errors import ConfigError, OracleError
from promptfed.oracle_options import OracleOptions
from promptfed.trust import default_key_variable

NO_KEY = "no-key"
"""Sent to servers that want none: the client insists on something."""
LEAST = 6
"""Shorter "keys" are not cut out of texts: they would take words with them."""
PART = 12
"""So many characters of a key, wherever in it, are cut out too."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, repr=False)
class Key:
    """``value`` is what is sent; a key from the environment is a secret, ``NO_KEY`` is not."""

    value: str
    is_secret: bool

    def scrubbed(self, text: str) -> str:
        """``text`` without the key, bearer tokens, and passwords in addresses."""
        text = self.kept_out(text)
        text = re.sub(r"(?i)\b(bearer\s+)[^\s'\",}]+", r"\1[key]", text)
        return re.sub(r"://[^/\s@'\"]+@", "://[...]@", text)

    def kept_out(self, text: str) -> str:
        """``text`` without the key and without any ``PART`` characters of it; for what the model says."""
        if not self.is_secret or len(self.value) < LEAST:
            return text
        text = text.replace(self.value, "[key]")
        if not any(part in text for part in self._parts):
            return text
        hidden = [False] * len(text)
        for part in self._parts:
            at = text.find(part)
            while at >= 0:
                hidden[at : at + PART] = [True] * PART
                at = text.find(part, at + 1)
        shown = []
        for place, character in enumerate(text):
            if not hidden[place]:
                shown.append(character)
            elif place == 0 or not hidden[place - 1]:
                shown.append("[key]")
        return "".join(shown)

    def clean(self, value: Any) -> Any:
        """JSON ``value`` with ``kept_out`` of every text in it, names included."""
        if isinstance(value, str):
            return self.kept_out(value) if len(value) >= LEAST else value
        if isinstance(value, list):
            return [self.clean(entry) for entry in value]
        if isinstance(value, dict):
            return {self.clean(name): self.clean(entry) for name, entry in value.items()}
        return value

    @cached_property
    def _parts(self) -> list[str]:
        return [self.value[at : at + PART] for at in range(len(self.value) - PART + 1)]


def read_key(options: OracleOptions) -> Key:
    """From the variable ``api_key_env``, else the usual one of the address's provider (``promptfed.trust``), else none.

    Raises OracleError if it is not set, or holds what no header can carry.
    """
    variable = options.api_key_env or default_key_variable(options.base_url)
    value = os.environ.get(variable, "").strip() if variable else ""
    if value:
        if not value.isascii() or not value.isprintable():
            raise OracleError(f"{_named(str(variable))} holds characters that no key has: copy the key into it again")
        return Key(value, True)
    if options.api_key_env is None:
        return Key(NO_KEY, False)
    raise OracleError(f"{_named(options.api_key_env)} is not set or empty: export NAME=... and pass --api-key-env NAME")


def check_address(options: OracleOptions) -> None:
    """Raises ConfigError for options that could not work or would write a secret into the run's config.yaml; the
    message repeats no value that may be one."""
    named = options.api_key_env
    if named is not None and not _NAME.fullmatch(named):
        raise ConfigError(
            "--api-key-env takes the NAME of an environment variable, not the key: it is not repeated here"
        )
    try:
        read_key(options)  # also the usual one of the address: what no header can carry is no client's failure later
        parts = urlsplit(options.base_url or "")
        _ = parts.port
    except OracleError as error:
        raise ConfigError(str(error)) from None
    except ValueError:
        raise ConfigError("--base-url is not an address, such as http://127.0.0.1:8080/v1") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            "--base-url must hold no user, password or query, for it is written into the run: put the key into an "
            "environment variable and name that by --api-key-env"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        said = f"is '{options.base_url}'" if options.base_url else "is missing"
        raise ConfigError(f"--base-url {said}: oracles api and embeds need one, such as http://127.0.0.1:8080/v1")


def _named(name: str) -> str:
    if _NAME.fullmatch(name) and name.upper() == name:
        return f"environment variable {name}"
    return "the environment variable named by --api-key-env (not repeated here: it may be a key)"
