"""Data sources, one file for each kind; installed as ``promptfed.tasks.sources``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from promptfed.errors import ConfigError, DataError, missing_object, unknown_name
from promptfed.examples.base import TextItem
from promptfed.registry import Registry
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.class_names import check_names
from promptfed.tasks.sources.duplicates import without_duplicates

KINDS = {
    "icons": ("icon_source", "icons"),
    "folder": ("folder", "folder:PATH"),
    "hf": ("hugging_face", "hf:NAME[:split]"),
    "torchvision": ("torchvision_data", "torchvision:NAME"),
    "coop": ("coop", "coop:NAME"),
}
"""Kind -> the module with its ``source`` function, and how a user writes it."""
MakeSource = Callable[..., Source]
"""``make(rest, *, data_root, strict)``: the source of ``kind:rest``."""
SOURCES: Registry[MakeSource] = Registry("data source", group="promptfed.sources")
"""Kinds of other packages, and of plug-ins."""


def load_source(data: str, *, data_root: Path | None = None, strict: bool = False) -> Source:
    """Load the source called ``data``, such as ``"icons"`` or ``"folder:photos"``.

    Args:
        data: Kind and name.
        data_root: The folder of downloaded data sets.
        strict: Refuse images that cannot be decoded, instead of leaving them out.

    Raises:
        ConfigError: The kind is unknown or a part is missing.
        DataError: Data are missing, or hold fewer than two classes or a class without a readable image.
    """
    check_source_name(data)
    kind, _, name = data.partition(":")
    return checked(maker_of(kind)(name, data_root=data_root, strict=strict), strict=strict)


def check_source_name(data: str) -> None:
    """Raise ConfigError if there is no kind of source like that of ``data``, or it lacks a part. Nothing is read."""
    kind, _, name = data.partition(":")
    if kind == "object":
        raise missing_object("data", data)
    if kind in KINDS:
        _, form = KINDS[kind]
        if not name and ":" in form:
            raise ConfigError(f"data source '{data}' lacks its name or path: write {form}")
    elif kind not in SOURCES:
        near = f" If '{data}' is a folder, write folder:{data}." if Path(data).expanduser().is_dir() else ""
        forms = [*(form for _, form in KINDS.values()), *SOURCES]
        raise ConfigError(f"{unknown_name('data source', kind, forms)}{near}")


def maker_of(kind: str) -> MakeSource:
    """Return the function that makes sources of ``kind``, built in or registered."""
    if kind not in KINDS:
        return SOURCES[kind]
    make: MakeSource = importlib.import_module(f"{__name__}.{KINDS[kind][0]}").source
    return make


def checked(source: Source, *, strict: bool = False) -> Source:
    """Return ``source`` without copies, after a check of its classes.

    It needs two classes or more, a sample of each, and distinguishable names. ``strict`` allows no example with two
    labels.

    Raises:
        DataError: A check fails.
    """
    source = consistent(source, strict=strict)
    if len(source.classes) < 2:
        only = f"one class only ('{source.classes[0]}')" if source.classes else "no examples"
        raise DataError(f"data '{source.name}' has {only}: classification needs at least two")
    labels = {sample.label for sample in source.samples}
    empty = [name for label, name in enumerate(source.classes) if label not in labels]
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


def consistent(source: Source, *, strict: bool = False) -> Source:
    """Return ``source`` without copies of its examples.

    Raises:
        DataError: Names of classes or domains cannot be told apart or shown, or examples have two labels
            (``duplicates.without_duplicates``).
    """
    check_names(source.classes, "class", source.name)
    holder = "client" if source.by_client or source.name.startswith("csv:") else "domain"
    check_names([domain for domain in source.domains if domain], holder, source.name)
    ids = source.content_ids or [s.item.content_id() for s in source.samples if isinstance(s.item, TextItem)]
    if len(ids) != len(source.samples):  # pictures that are drawn, or whose data set does not show its files
        return source
    return without_duplicates(replace(source, content_ids=()), ids, strict=strict)
