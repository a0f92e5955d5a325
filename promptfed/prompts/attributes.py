"""Short texts that describe a class: its attributes, from a file of the user's, or the task's hand-written sentences.

A file is read once, when a run is set up, and never because a run, a bundle or a server names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.errors import ConfigError, FormatError
from promptfed.method import MethodConfig
from promptfed.printable import printable
from promptfed.readers.json_reader import read_json
from promptfed.setup import Setup

OPTION = "attributes"
MOST = 64
"""Attributes of a class that are read."""


class AttributesConfig(MethodConfig):
    """Where the attributes of classes come from."""

    attributes: str | dict[str, tuple[str, ...]] = Field(
        "templates",
        description="texts that describe each class: 'templates', the task's sentences with its name; 'file:PATH', a "
        "JSON object of class names and lists of texts (read once, when a run is set up); or such an object",
    )


def read_attributes(options: dict[str, Any]) -> dict[str, Any]:
    """Return method ``options`` in which a file of attributes is replaced by what it says.

    Raises:
        ConfigError: The file cannot be read, or holds something else than lists of texts.
    """
    file = options.get(OPTION)
    if not isinstance(file, str) or file == "templates":
        return options
    kind, _, path = file.partition(":")
    if kind != "file" or not path:
        raise ConfigError(
            f"option '{OPTION}' is '{printable(file, 60)}': it is 'templates' or 'file:PATH', a JSON object such as "
            '{"cat": ["whiskers", "a long tail"]}'
        )
    try:
        content = read_json(Path(path).expanduser())
    except (OSError, FormatError) as error:
        raise ConfigError(f"option '{OPTION}': '{printable(file, 200)}' cannot be read: {error}") from error
    return {**options, OPTION: _checked(content, file)}


def attributes_of(
    attributes: str | Mapping[str, Sequence[str]], classes: Sequence[str], templates: Sequence[str]
) -> list[list[str]]:
    """Return the attributes of each of ``classes``; one that the object has not, has the templates with its name.

    Raises:
        ConfigError: A file was named, but not read.
    """
    if isinstance(attributes, str) and attributes != "templates":
        raise ConfigError(
            f"option '{OPTION}' is '{printable(attributes, 60)}': a file is read when a run is set up (promptfed train "
            f"--set method.{OPTION}=file:PATH), and never because a run or a bundle names it"
        )
    described = {} if isinstance(attributes, str) else {_plain(name): texts for name, texts in attributes.items()}
    return [
        list(described.get(_plain(name), ()))
        or list(dict.fromkeys(template.replace("{}", name.replace("_", " ")) for template in templates))
        for name in classes
    ]


def attribute_features(
    setup: Setup, attributes: str | Mapping[str, Sequence[str]], classes: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Return unit features of all attributes of ``classes`` ``(M, embed_dim)``, and each class's mean, unit too.

    Raises ConfigError as ``attributes_of``.
    """
    lists = attributes_of(attributes, classes, setup.templates)
    features = F.normalize(setup.features.texts([text for texts in lists for text in texts]), dim=-1)
    means = torch.stack([some.mean(0) for some in features.split([len(texts) for texts in lists])])
    return features, F.normalize(means, dim=-1)


def check_attributes(attributes: str | Mapping[str, Sequence[str]], setup: Setup) -> None:
    """Check that attributes are at hand, and describe all classes or none.

    Raises:
        ConfigError: A file was named, but not read, or describes some of the classes alone.
    """
    attributes_of(attributes, (), setup.templates)
    check_described(attributes, setup.classes)


def check_described(attributes: str | Mapping[str, Sequence[str]], classes: Sequence[str]) -> None:
    """Raise ConfigError if the user's object describes some of ``classes`` and not the others."""
    if isinstance(attributes, str):
        return
    names = {_plain(name) for name in attributes}
    lacking = [name for name in classes if _plain(name) not in names]
    if lacking:
        raise ConfigError(
            f"option '{OPTION}' describes no '{printable(lacking[0], 60)}' ({len(lacking)} of {len(classes)} classes "
            "lack a list of texts): add them to the file, or use --set method.attributes=templates"
        )


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _checked(content: Any, file: str) -> dict[str, list[str]]:
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"option '{OPTION}': '{printable(file, 200)}' holds no JSON object of class names")
    for name, texts in content.items():
        is_list = isinstance(texts, list) and 0 < len(texts) <= MOST
        if not is_list or not all(isinstance(text, str) and text.strip() and text.isprintable() for text in texts):
            raise ConfigError(
                f"option '{OPTION}': '{printable(name, 60)}' in '{printable(file, 120)}' must have a list of 1 to "
                f"{MOST} texts of printable characters"
            )
    return content
