"""Print what a bundle says of examples: lines to read, JSON, or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from promptfed.printable import LONGEST, printable

if TYPE_CHECKING:
    from promptfed.export.predict import Prediction

Form = Literal["lines", "best", "json", "csv"]
"""Lines with all classes that are named; the best class of each alone; JSON; CSV."""
NOT_ANSWERED = "not answered"
"""The text for an example that a black box refused, or whose answer names no class."""
NONE_OF_THESE = "none of these"
"""The text for an example whose best class is below the threshold."""


def print_predictions(
    predictions: Sequence[Prediction],
    kind: str,
    problems: Mapping[Path, str],
    form: Form,
    threshold: float | None,
) -> None:
    """Print what was predicted.

    Args:
        predictions: One of each example that could be read.
        kind: What an example is called: "path", "text" or "question"; its key in JSON, its column in CSV.
        problems: Path -> why there is no prediction. Only JSON and CSV show them.
        form: How it is printed.
        threshold: That of the predictions; JSON says whether an example reaches it.
    """
    if form == "json":
        rows = [as_json(prediction, kind, threshold) for prediction in predictions]
        rows += [{kind: str(path), "error": problem} for path, problem in problems.items()]
        typer.echo(json.dumps(rows, indent=2))
    elif form == "csv":
        typer.echo(_as_csv(predictions, kind, problems), nl=False)
    else:
        for prediction in predictions:
            typer.echo(_best(prediction) if form == "best" else _line(prediction, kind))


def as_json(prediction: Prediction, kind: str, threshold: float | None) -> dict[str, Any]:
    """Return a prediction as JSON has it."""
    row: dict[str, Any] = {kind: str(prediction.example)}
    if not prediction.ranked:
        return {**row, "error": NOT_ANSWERED}
    row["ranked"] = [{"class": name, "probability": value} for name, value in prediction.ranked]
    if prediction.labels is not None:
        row["labels"] = list(prediction.labels)
    return row if threshold is None else {**row, "none_of_these": prediction.is_none}


def _best(prediction: Prediction) -> str:
    if not prediction.ranked:
        return NOT_ANSWERED
    if prediction.labels:
        return printable("; ".join(prediction.labels))
    return NONE_OF_THESE if prediction.best is None else printable(prediction.best)


def _line(prediction: Prediction, kind: str) -> str:
    shares = [
        printable(name) if kind == "question" else f"{printable(name, LONGEST)} {100 * value:.1f} %"
        for name, value in prediction.ranked[: len(prediction.labels or ()) or None]
    ]
    text = "  ".join(shares) or NOT_ANSWERED
    return f"{printable(prediction.example)}: {f'{NONE_OF_THESE} ({text})' if prediction.is_none else text}"


def _as_csv(predictions: Sequence[Prediction], kind: str, problems: Mapping[Path, str]) -> str:
    """Return a table with one row an example: its status (ok, none, error), and its classes with probabilities."""
    most = max((len(prediction.ranked) for prediction in predictions), default=1)
    endings = ["", *(f"_{place}" for place in range(2, most + 1))]
    columns = [f"{name}{ending}" for ending in endings for name in ("class", "probability")]
    has_labels = any(prediction.labels is not None for prediction in predictions)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([kind, "status", *columns, "error", *(["labels"] if has_labels else [])])
    for prediction in predictions:
        cells = [cell for name, value in prediction.ranked for cell in (name, f"{value:.6f}")]
        cells += [""] * (len(columns) - len(cells))
        status = "none" if prediction.is_none else "ok" if prediction.ranked else "error"
        labels = ["; ".join(prediction.labels or ())] if has_labels else []
        writer.writerow([prediction.example, status, *cells, "" if prediction.ranked else NOT_ANSWERED, *labels])
    for path, problem in problems.items():
        writer.writerow([path, "error", *[""] * len(columns), problem])
    return text.getvalue()
