"""Data sources, one file for each kind; installed as ``promptfed.tasks.sources``."""

from __future__ import annotations

import importlib
from pathlib import Path

from promptfed.errors import ConfigError, DataError, unknown_name
from promptfed.tasks.sources.base import Source

KINDS = {
    "icons": ("icon_source", "icons"),
    "folder": ("folder", "folder:PATH"),
    "hf": ("hugging_face", "hf:NAME[:split]"),
    "torchvision": ("torchvision_data", "torchvision:NAME"),
    "coop": ("coop", "coop:NAME"),
}
"""Kind -> the module with its ``source`` function, and how a user writes it."""


def load_source(data: str, *, data_root: Path | None = None, strict: bool = False) -> Source:
    """The source called ``data``, such as ``"icons"`` or ``"folder:photos"``; pixels are decoded only to check files.

    Raises ConfigError for an unknown kind or a missing part, DataError if the data is missing, holds fewer than
    two classes or a class without a readable image, or (with ``strict``) if any image cannot be decoded.
    """
    kind, _, rest = data.partition(":")
    if kind not in KINDS:
        near = f" If '{data}' is a folder, write folder:{data}." if Path(data).expanduser().is_dir() else ""
        raise ConfigError(f"{unknown_name('data source', kind, [form for _, form in KINDS.values()])}{near}")
    module, form = KINDS[kind]
    if not rest and ":" in form:
        raise ConfigError(f"data source '{data}' lacks its name or path: write {form}")
    make = importlib.import_module(f"{__name__}.{module}").source
    source: Source = make(rest, data_root=data_root, strict=strict)
    return checked(source)


def checked(source: Source) -> Source:
    """``source`` itself, if it has two classes or more and a sample of each; otherwise DataError says what is wrong."""
    if len(source.classes) < 2:
        only = f"one class only ('{source.classes[0]}')" if source.classes else "no classes"
        raise DataError(f"data '{source.name}' has {only}: classification needs at least two")
    found = {sample.label for sample in source.samples}
    empty = [name for label, name in enumerate(source.classes) if label not in found]
    if empty:
        why = (
            f"; {len(source.skipped)} images were unreadable, the first is {source.skipped[0]}"
            if source.skipped
            else ""
        )
        raise DataError(
            f"class '{empty[0]}' of data '{source.name}' has no readable image{why}: add images or remove it"
        )
    return source
