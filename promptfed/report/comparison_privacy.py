"""The table of a comparison whose runs have differential privacy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptfed.printable import printable

CAPTION = (
    "What the finished runs spent, the largest of the seeds. Runs on the same data add up: whoever sees all that this "
    "comparison released has seen more than one row says."
)


def privacy_section(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the table, as ``promptfed.report.comparison.sections`` has them; None if no run promises anything."""
    if not any(method.get("privacy") for method in methods.values()):
        return None
    rows = [(name, method["label"], _cells(method.get("privacy")), (False,) * 3) for name, method in methods.items()]
    return {
        "title": "Privacy", "columns": ["epsilon", "delta", "of"], "rows": rows, "caption": CAPTION, "notes": {},
    }  # fmt: skip


def _cells(promise: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if promise is None:
        return ("-", "-", "no promise")
    epsilon = "no limit" if promise["epsilon"] is None else f"{promise['epsilon']:.2f}"
    return (epsilon, f"{promise['delta']:g}", printable(str(promise["unit"]), 60))
