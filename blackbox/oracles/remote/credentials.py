"""The key of a server: read from the environment on use, and kept out of all output."""

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
"""Key for servers that need none: the client library requires one."""
LEAST = 6
"""Shorter "keys" are not cut out of texts: they would take words with them."""
PART = 12
"""Length of the parts of a key that are removed, too."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, repr=False)
class Key:
    """Key of a server: ``value`` is sent; a key from the environment is a secret, ``NO_KEY`` is not."""

    value: str
    is_secret: bool

    def scrubbed(self, text: str) -> str:
        """Remove the key, bearer tokens, and passwords in addresses from ``text``."""
        text = self.kept_out(text)
        text = re.sub(r"(?i)\b(bearer\s+)[^\s'\",}]+", r"\1[key]", text)
        return re.sub(r"://[^/\s@'\"]+@", "://[...]@", text)

    def kept_out(self, text: str) -> str:
        """Remove the key and any ``PART`` characters of it from ``text``; for the model's replies."""
        if not self.is_secret or len(self.value) < LEAST:
            return text
        text = text.replace(self.value, "[key]")
        if not any(part in text for part in self._parts):
            return text
        mask = [False] * len(text)
        for part in self._parts:
            at = text.find(part)
            while at >= 0:
                mask[at : at + PART] = [True] * PART
                at = text.find(part, at + 1)
        parts = []
        for index, character in enumerate(text):
            if not mask[index]:
                parts.append(character)
            elif index == 0 or not mask[index - 1]:
                parts.append("[key]")
        return "".join(parts)

    def clean(self, value: Any) -> Any:
        """Apply ``kept_out`` to every text in a JSON ``value``, names included."""
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
    """Read the key from the variable ``api_key_env``, else from the usual one of the address's provider.

    Raises:
        OracleError: The variable is not set, or holds characters that no header can carry.
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
    """Check the options of a server's address.

    The message repeats no value that may be a secret.

    Raises:
        ConfigError: Options cannot work or would write a secret into the run's config.yaml.
    """
    variable = options.api_key_env
    if variable is not None and not _NAME.fullmatch(variable):
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
        problem = f"is '{options.base_url}'" if options.base_url else "is missing"
        raise ConfigError(f"--base-url {problem}: oracles api and embeds need one, such as http://127.0.0.1:8080/v1")


def _named(name: str) -> str:
    if _NAME.fullmatch(name) and name.upper() == name:
        return f"environment variable {name}"
    return "the environment variable named by --api-key-env (not repeated here: it may be a key)"
