"""Kinds of text towers of open_clip models, told from their configs without loading anything heavy.

A kind says where a context may stand, whether a sentence may be cut behind the position that is read, and which
position that is. ``text_towers.py`` has one class for each kind that can be prompted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LENGTH = 77
"""The context length of a config that names none."""
SHARED_POSITIONS = 6.4
"""Positions a class whose work is that of a causal tower, where the context is computed once: a step of 20 classes
takes 12 times as long if all 77 positions are read, 9 to 10 times for 64, 4 to 5 times for 32 (12 layers, width 512,
one thread, 4 and 16 context tokens)."""


@dataclass(frozen=True)
class TowerKind:
    """One kind of text tower.

    Attributes:
        name: A short name.
        about: What it reads, and what that means for a prompt.
        is_cut: Whether positions behind the one that is read, and padding, may be left out.
        refusal: Why towers of this kind cannot be prompted; empty: they can.
    """

    name: str
    about: str
    is_cut: bool = True
    refusal: str = ""


CAUSAL = TowerKind("causal", "causal, read at the end token; what all classes share is computed once")
CAUSAL_EOS = TowerKind(
    "causal-eos", "causal, read at the first end-of-sequence id of its own tokenizer; computed as those above"
)
WHOLE = TowerKind("whole", "reads in both directions, padding too, so a sentence is never cut", is_cut=False)
LAST = TowerKind("last", "read at the last position, behind the padding, so a sentence is never cut", is_cut=False)
MASKED = TowerKind("masked", "an encoder of transformers that masks padding; no deep text prompts")
CLASS_TOKEN = TowerKind(
    "class-token",
    "CoCa",
    refusal="it appends a class token of its own behind the text, with a mask that a prompt would shift",
)
UNREAD = TowerKind("unread", "pooled in another way", refusal="its text feature is not read at one position")
FIRST_CAUSAL = TowerKind(
    "first-causal", "causal, read at the first position", refusal="its first position sees no word behind it"
)


def kind_of(config: Mapping[str, Any]) -> TowerKind:
    """Return the kind of text tower that open_clip builds for the model ``config``."""
    text = config.get("text_cfg") or {}
    if "multimodal_cfg" in config or text.get("embed_cls"):
        return CLASS_TOKEN
    if text.get("hf_model_name"):
        return MASKED
    return kind_by_pooling(text.get("pool_type", "argmax"), is_causal=not text.get("no_causal_mask"))


def kind_by_pooling(pooling: str, *, is_causal: bool) -> TowerKind:
    """Return the kind of open_clip's own transformer that pools by ``pooling``."""
    if pooling == "last":
        return LAST
    if pooling == "first":
        return FIRST_CAUSAL if is_causal else WHOLE
    if pooling not in ("argmax", "eos"):
        return UNREAD
    if not is_causal:
        return WHOLE
    return CAUSAL if pooling == "argmax" else CAUSAL_EOS


def installed_configs() -> dict[str, dict[str, Any]]:
    """Return architecture -> config of the installed open_clip, read from its files; nothing if there are none."""
    spec = find_spec("open_clip")
    folders = [Path(place) / "model_configs" for place in (spec and spec.submodule_search_locations) or ()]
    paths = sorted(path for folder in folders for path in folder.glob("*.json"))
    configs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    return {name: config for name, config in configs.items() if {"embed_dim", "text_cfg"} <= config.keys()}


def tally() -> dict[TowerKind, list[str]]:
    """Return the architectures of the installed open_clip by kind; those of refused kinds stand last."""
    by_kind: dict[TowerKind, list[str]] = {}
    for name, config in installed_configs().items():
        by_kind.setdefault(kind_of(config), []).append(name)
    return dict(sorted(by_kind.items(), key=lambda item: (bool(item[0].refusal), -len(item[1]))))


def tally_lines() -> list[str]:
    """Return lines that say how many architectures can be prompted, and what those that are never cut cost more."""
    configs, by_kind = installed_configs(), tally()
    if not configs:
        return []
    promptable = sum(len(names) for kind, names in by_kind.items() if not kind.refusal)
    try:
        library = f"open_clip {version('open_clip_torch')}"
    except PackageNotFoundError:
        library = "open_clip"
    lines = [f"{library}: {promptable} of {len(configs)} architectures can be prompted."]
    for kind, names in by_kind.items():
        about = f"refused: {kind.refusal}" if kind.refusal else kind.about
        lines.append(f"{len(names):>4}  {about}; such as {min(names, key=len)}")
        if not kind.is_cut:
            lengths = sorted({configs[name]["text_cfg"].get("context_length", LENGTH) for name in names})
            prices = ", ".join(f"{price(length)} times at {length} positions" for length in lengths)
            lines.append(f"      text work of a step on 20 classes, a causal tower of the same size being 1: {prices}")
    return lines


def price(length: int) -> str:
    """Return how many times the text work of a step is where all ``length`` positions are read, as a text."""
    return f"{length / SHARED_POSITIONS:.0f}"
