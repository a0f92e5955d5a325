"""What `promptfed list backbones` says of the text towers of the installed open_clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def with_towers(rows: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the backbones ``rows``, open_clip's with its architectures by the kind of their text tower."""
    from promptfed.backbones.text_tower_kinds import tally

    kinds = {f"{kind.name}{' (refused)' * bool(kind.refusal)}": names for kind, names in tally().items()}
    return {name: {**row, **(kinds if name.startswith("open_clip:") else {})} for name, row in rows.items()}


def print_towers(console: Console) -> None:
    """Print how many architectures can be prompted, and what towers that are never cut cost more."""
    from promptfed.backbones.text_tower_kinds import tally_lines

    for line in tally_lines():
        console.print(line, highlight=False, markup=False)
    console.print("promptfed list backbones open_clip names them all.", highlight=False)
