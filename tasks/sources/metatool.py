"""``metatool:DIR``: MetaTool's requests and their tools (Huang et al. 2024, ICLR), from a clone of its repository."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from promptfed.errors import DataError
from promptfed.printable import printable
from promptfed.tasks.sources import csv_texts
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.tables import Columns, text_source
from promptfed.tasks.sources.tool_descriptions import described, read_descriptions
from promptfed.tasks.sources.unreadable import check_folder

REQUESTS = "all_clean_data.csv"
DESCRIPTIONS = ("plugin_des.json", "big_tool_des.json")
PLACES = (".", "data", "dataset", "dataset/data")
"""Where in DIR a file may stand."""


def source(path: str, columns: Columns) -> Source:
    """Return the requests of the folder ``path``; the columns are MetaTool's own, Query and Tool.

    Raises:
        DataError: A file is missing, or a tool has no description.
    """
    folder = Path(path).expanduser()
    check_folder(folder)
    rows = csv_texts.rows(_file(folder, REQUESTS))
    found = text_source(path, {"": rows}, replace(columns, text="Query", label="Tool", domain=""))
    descriptions: dict[str, str] = {}
    for name in DESCRIPTIONS:
        descriptions |= read_descriptions(_file(folder, name))
    return described(found, descriptions)


def _file(folder: Path, name: str) -> Path:
    for place in PLACES:
        if (file := folder / place / name).is_file():
            return file
    raise DataError(
        f"'{printable(folder)}' holds no {name}: give a clone of github.com/HowieHwong/MetaTool, or its folder dataset"
    )
