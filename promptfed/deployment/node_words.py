"""The words of a node's operator, as Flower's ``--node-config`` reads them."""

from __future__ import annotations

import tomllib
from typing import Any

from promptfed.errors import ConfigError


def parse_node_config(words: str) -> dict[str, Any]:
    """Parse ``site="north" data="folder:/d"`` as Flower does. Raise ConfigError for what Flower cannot read."""
    node_config: dict[str, Any] = {}
    for line in _pairs(words):
        try:
            node_config.update(tomllib.loads(line))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"--node-config: '{line}' is not name=value with text in quotes ({error})") from error
    return node_config


def _pairs(words: str) -> list[str]:
    """Split at spaces outside of quotes, without taking the quotes away."""
    pairs, quoted = [""], False
    for letter in words:
        quoted ^= letter == '"'
        if letter.isspace() and not quoted:
            pairs.append("")
        else:
            pairs[-1] += letter
    return [pair for pair in pairs if pair]
