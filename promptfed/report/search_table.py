"""The table of `promptfed search`: a row for each index and selection, a column for each way to merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from promptfed.search_table import Row

MERGES = {"raw": "raw", "round robin": "robin", "minmax-CORI": "CORI", "calibrated": "calibr."}
"""Merge -> the head of its column; where no document is in two lists, rrf is round robin."""
CAPTION = (
    "nDCG@10 of documents in % (linear gain), by way to merge: the engines' own scores, round robin (and rrf), "
    "minmax-CORI, calibrated scores. recall: of the engines with a relevant document, the share that is asked, in %. "
    "answer: requests whose answer stands in one of the three best documents, in %, merged raw (cosine) or by "
    "minmax-CORI (bm25). bytes: of a request, there and back."
)


def search_table(rows: Sequence[Row]) -> Table:
    """Return the table of ``rows``."""
    from rich import box
    from rich.table import Table

    table = Table(caption=CAPTION, caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("index", "engines by", "asked", "recall", *MERGES.values(), "answer", "bytes"):
        table.add_column(name, justify="left" if name in ("index", "engines by") else "right")
    before = ""
    for row in rows:
        if before and row.index != before:
            table.add_section()
        merged = [f"{100 * row.ndcg[name]:.1f}" for name in MERGES]
        contained = row.contained.get("raw" if row.index == "cosine" else "minmax-CORI")
        answer = "-" if contained is None else f"{100 * contained:.0f}"
        shown = row.index if row.index != before else ""
        cells = [shown, row.selection, str(row.asked), f"{100 * row.recall:.0f}", *merged, answer, f"{row.bytes:.0f}"]
        table.add_row(*cells)
        before = row.index
    return table
