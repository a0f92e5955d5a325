"""What shells complete: commands, flags, names and options, as ``completions.json`` has them.

Reading the registries takes seconds, because they hold classes that use torch. So what promptfed brings is written down
by ``python scripts/make_configuration_page.py``, a test compares it with the registries, and names that installed
packages add come from their entry points, which nobody has to import for that.
"""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("completions.json")
GROUPS = {"backbones": "models"}
"""Kind of names -> its entry-point group, where it is called otherwise."""


@cache
def completion_data() -> dict[str, Any]:
    """Return the content of ``completions.json``: "commands", "names" and "settings"."""
    data: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return data


@cache
def known_names(kind: str) -> list[str]:
    """Return the names of ``kind``, which ``promptfed list KIND`` shows, sorted."""
    group = f"promptfed.{GROUPS.get(kind, kind)}"
    return sorted({*completion_data()["names"].get(kind, ()), *entry_names(group)})


def entry_names(group: str) -> set[str]:
    """Return the names of the entry points in ``group``.

    importlib.metadata says the same, but its import alone takes longer than all else that an answer takes.
    """
    names = set()
    for folder in sys.path:
        for file in _entry_files(folder or "."):
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, ValueError):
                continue
            for section in text.split(f"[{group}]")[1:]:
                lines = section.partition("\n[")[0].splitlines()
                names |= {line.partition("=")[0].strip() for line in lines if "=" in line and line[:1] not in "#;"}
    return names


def _entry_files(folder: str) -> list[Path]:
    """Return the files in which the packages of a folder name their entry points."""
    try:
        with os.scandir(folder) as entries:
            homes = [entry.path for entry in entries if entry.name.endswith((".dist-info", ".egg-info"))]
    except (OSError, ValueError):
        return []
    return [Path(home) / "entry_points.txt" for home in homes]
