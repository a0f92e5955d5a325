"""Tables without lines, and how entries of other packages are named in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from promptfed.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

OWN = "promptfed"


def labelled(name: str, row: Mapping[str, Any]) -> str:
    """Return ``name``, with its package if that is not promptfed."""
    origin = row.get("origin", OWN)
    return name if origin == OWN else f"{name} ({printable(origin)})"


def plain_table() -> Table:
    """Make a table without lines, with one row for each entry."""
    from rich.table import Table

    return Table(box=None, pad_edge=False, header_style="bold")
