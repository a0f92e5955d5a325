"""Classes in a report: accuracy of each, worst first, and what is taken for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptfed.intervals import wilson_interval
from promptfed.printable import printable
from promptfed.report.charts.bars import Bar, bar_chart
from promptfed.report.charts.heat import CELL, NUMBERED, heat_map
from promptfed.report.charts.look import Look
from promptfed.report.charts.svg import Chart
from promptfed.report.round_charts import one_decimal
from promptfed.report.tables import interval, percent

MOST_BARS, MOST_ROWS = 30, 500
MOST_CONFUSED = 20
"""Classes of the confusion matrix."""
ROOMY = 14
"""Classes up to which the matrix has large cells."""
MOST_PAIRS = 8
NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Confusion:
    """Counts of (true class, predicted class), -1 for no answer, and the ``names`` of the classes."""

    counts: Mapping[tuple[int, int], int]
    names: Sequence[str]

    @classmethod
    def of(cls, details: Mapping[str, Any] | None, names: Sequence[str]) -> Confusion | None:
        """From details.json; None where it counts nothing, or other classes."""
        rows = (details or {}).get("counts") or []
        counts = {(int(truth), int(prediction)): int(count) for truth, prediction, count in rows}
        if not counts or not all(0 <= t < len(names) and -1 <= p < len(names) for t, p in counts):
            return None
        return cls(counts, names)

    def name(self, number: int) -> str:
        """Return the name of a class."""
        return NO_ANSWER if number < 0 else str(self.names[number])

    @property
    def items(self) -> dict[int, int]:
        """Class -> its test examples."""
        totals: Counter[int] = Counter()
        for (truth, _), count in self.counts.items():
            totals[truth] += count
        return dict(totals)

    @property
    def errors(self) -> list[tuple[int, int, int]]:
        """(true class, predicted class, examples) of what is wrong, the most frequent first."""
        wrong = [(t, p, count) for (t, p), count in self.counts.items() if t != p]
        return sorted(wrong, key=lambda row: (-row[2], row[0], row[1]))

    @property
    def worst_first(self) -> list[int]:
        """The classes that were tested, rising by accuracy."""
        items = self.items
        return sorted(items, key=lambda k: (self.counts.get((k, k), 0) / items[k], k))

    def most_confused(self) -> list[int]:
        """Return the classes of the matrix in their own order: all, or those with most errors as truth or guess."""
        present = sorted({k for pair in self.counts for k in pair if k >= 0})
        if len(present) <= MOST_CONFUSED:
            return present
        involved: Counter[int] = Counter()
        for truth, prediction, count in self.errors:
            involved[truth] += count
            if prediction >= 0:
                involved[prediction] += count
        return sorted(sorted(present, key=lambda k: (-involved[k], k))[:MOST_CONFUSED])


def class_chart(confusion: Confusion, label: str, look: Look) -> Chart | None:
    """Draw the accuracy of the classes that do worst."""
    items = confusion.items
    bars = []
    for k in confusion.worst_first[:MOST_BARS]:
        share = confusion.counts.get((k, k), 0) / items[k]
        low, high = wilson_interval(share, items[k])
        bars.append(Bar(confusion.name(k), 100 * share, (100 * low, 100 * high), note=f"n {items[k]:,}"))
    more = len(items) - len(bars)
    title = f"Accuracy of the {len(bars)} classes with the lowest" if more > 0 else "Accuracy by class, worst first"
    return bar_chart(title, bars, x_title="accuracy among all classes (%)", series=(label, look), words=one_decimal)


def class_table(confusion: Confusion) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the columns and a row for each class: test examples, accuracy, and what it is mostly taken for."""
    items, rows = confusion.items, []
    taken: dict[int, list[str]] = {}
    for truth, prediction, count in confusion.errors:
        if len(taken.setdefault(truth, [])) < 3:
            taken[truth].append(f"{printable(confusion.name(prediction), 60)} {count}")
    for k in confusion.worst_first[:MOST_ROWS]:
        share = confusion.counts.get((k, k), 0) / items[k]
        accuracy = f"{percent(share)} {interval(wilson_interval(share, items[k]))}"
        rows.append((confusion.name(k), [f"{items[k]:,}", accuracy, ", ".join(taken.get(k, ())) or "-"]))
    return ["test", "accuracy (%)", "mostly taken for"], rows


def precision_chart(details: Mapping[str, Any] | None, names: Sequence[str], label: str, look: Look) -> Chart | None:
    """Draw the average precision of the classes that do worst; None where each example has one class."""
    rows = _precisions(details, names)
    bars = [Bar(name, 100 * figure, None, note=f"n {count:,}") for name, figure, count in rows[:MOST_BARS]]
    more = len(rows) > len(bars)
    which = f"of the {len(bars)} classes with the lowest" if more else "by class, worst first"
    return bar_chart(
        f"Average precision {which}", bars, x_title="average precision (%)", series=(label, look), words=one_decimal
    )


def precision_table(
    details: Mapping[str, Any] | None, names: Sequence[str]
) -> tuple[list[str], list[tuple[str, list[str]]]] | None:
    """Return the columns and a row for each class: the test examples that show it, and its average precision."""
    rows = [(name, [f"{count:,}", percent(figure)]) for name, figure, count in _precisions(details, names)]
    return (["test examples that show it", "average precision (%)"], rows[:MOST_ROWS]) if rows else None


def _precisions(details: Mapping[str, Any] | None, names: Sequence[str]) -> list[tuple[str, float, int]]:
    """Return (class, average precision, examples) of details.json, worst first; empty where they are of others."""
    rows = [(int(k), float(figure), int(count)) for k, figure, count in (details or {}).get("average_precisions") or ()]
    if not all(0 <= k < len(names) for k, _, _ in rows):
        return []
    return [(str(names[k]), figure, count) for k, figure, count in sorted(rows, key=lambda row: (row[1], row[0]))]


def confusion_chart(confusion: Confusion) -> Chart:
    """Draw the matrix: rows are true classes, columns predictions, shaded by the share of the row."""
    classes, items = confusion.most_confused(), confusion.items
    columns = [*classes, -1] if any(p < 0 for _, p in confusion.counts) else classes
    cells = [[confusion.counts.get((t, p), 0) for p in columns] for t in classes]
    shades = [[value / max(1, items.get(t, 0)) for value in row] for t, row in zip(classes, cells, strict=True)]
    title = "Confusion of classes"
    if len(classes) < len(items):
        title = f"Confusion of the {len(classes)} classes with most errors, of {len(items)}"
    frequent = [
        f"{confusion.name(t)} is taken for {confusion.name(p)} {count} times of {items[t]}"
        for t, p, count in confusion.errors[:MOST_PAIRS]
    ]
    right = sum(confusion.counts.get((k, k), 0) for k in items)
    description = (
        f"Matrix of true classes (rows) and predicted classes (columns). {right:,} of {sum(items.values()):,} test "
        f"examples are on the diagonal. Most frequent errors: {'; '.join(frequent) or 'none'}."
    )
    return heat_map(
        title,
        description,
        [confusion.name(k) for k in classes],
        [confusion.name(k) for k in columns],
        cells,
        row_title="true class",
        column_title="predicted class",
        shades=shades,
        outlined=[(k, k) for k in range(len(classes))],
        cell=CELL if len(columns) <= ROOMY else NUMBERED,
    )


def frequent_errors(confusion: Confusion) -> list[str]:
    """Return the most frequent errors in words."""
    items = confusion.items
    return [
        f"{confusion.name(t)}, taken for {confusion.name(p)}: {count} of {items[t]}"
        for t, p, count in confusion.errors[:MOST_PAIRS]
        if count > 1
    ]
