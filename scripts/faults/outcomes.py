"""What a fault may come to, and how outcomes are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Result = Literal[
    "no difference", "said", "refused", "accepted", "silent difference", "traceback", "hang", "memory", "lost"
]
GOOD: tuple[Result, ...] = ("no difference", "said", "refused", "accepted")
"""Nothing is changed by it; a line says what is; a line refuses to go on; it is a value that the format allows."""
BAD: tuple[Result, ...] = ("silent difference", "traceback", "hang", "memory", "lost")


@dataclass(frozen=True)
class Outcome:
    """One fault: its suite, what exactly was done, and what came of it; ``detail`` holds the line that was printed."""

    suite: str
    fault: str
    result: Result
    detail: str = ""


def tally(outcomes: Iterable[Outcome]) -> dict[str, Counter[str]]:
    """Return suite -> how often each result came."""
    counts: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.suite, Counter())[outcome.result] += 1
    return counts


def table(counts: dict[str, Counter[str]]) -> str:
    """Return the counts as a Markdown table, one row a suite."""
    columns = [*GOOD, *BAD]
    lines = [f"| suite | tried | {' | '.join(columns)} |", f"|---|---:|{'---:|' * len(columns)}"]
    for suite, results in counts.items():
        cells = " | ".join(str(results[column]) for column in columns)
        lines.append(f"| {suite} | {sum(results.values())} | {cells} |")
    return "\n".join(lines)
