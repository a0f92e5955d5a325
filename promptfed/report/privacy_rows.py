"""What a run promises those who hold the data, as rows of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HIDDEN = frozenset({"epsilon_limit", "epsilon_of_client", "not_covered"})
"""Entries of privacy.json that have no row, or several."""
MOST_SHOWN = 50
"""Clients with an epsilon of their own in the report; privacy.json has all."""
LABELS = {"epsilon_rdp": "epsilon by Renyi DP, a looser bound", "denominator": "sum is divided by"}
"""Those whose names say too little to a reader."""


def statement_rows(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return (what, value) of all that the statement ``found`` says; none without one."""
    if found is None:
        return []
    rows = [
        (LABELS.get(name, name.replace("_", " ")), _shown(value)) for name, value in found.items() if name not in HIDDEN
    ]
    if of_client := found.get("epsilon_of_client"):
        shown = [f"{client}: {value:.4g}" for client, value in list(of_client.items())[:MOST_SHOWN]]
        more = len(of_client) - len(shown)
        rows.append(("epsilon of each client", ", ".join(shown) + (f" and {more} more" if more else "")))
    return rows + [("not covered", str(line)) for line in found.get("not_covered") or ()]


def _shown(value: Any) -> str:
    if value is None:
        return "no limit: nothing is promised"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
