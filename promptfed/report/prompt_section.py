"""Samples and the prompt in a report: examples with their predictions, and what the prompt says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptfed.examples.base import ANSWER_CLASSES
from promptfed.printable import printable
from promptfed.report.class_section import NO_ANSWER
from promptfed.report.tables import percent

PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+")
"""What may stand in the page as a picture: a run directory may be a stranger's."""


@dataclass(frozen=True)
class ShownSample:
    """One example: a text or a picture (a ``data:`` address), and ``lines`` about it, of which the first is bold."""

    is_right: bool
    text: str
    image: str
    lines: tuple[str, ...]

    @property
    def alternative(self) -> str:
        """Return what stands in the place of the picture."""
        return f"Test image: {'; '.join(self.lines)}"


def shown_samples(details: Mapping[str, Any] | None, names: Sequence[str]) -> list[ShownSample]:
    """Return the samples of details.json, those that went wrong first."""
    samples = []
    for sample in (details or {}).get("samples") or ():
        image = str(sample.get("image") or "")
        is_right = sample["prediction"] in sample.get("labels", [sample["truth"]])
        lines = _lines(sample, names, is_right)
        text, picture = str(sample.get("text") or ""), image if PICTURE.fullmatch(image) else ""
        samples.append(ShownSample(is_right, text, picture, lines))
    return samples


def _lines(sample: Mapping[str, Any], names: Sequence[str], is_right: bool) -> tuple[str, ...]:
    """Return in words what was predicted, how sure the model was, and what is right."""
    client = str(sample.get("name") or "")
    if tuple(names) == ANSWER_CLASSES:
        return ("answered right" if is_right else "answered wrong", f"right answer: {sample.get('answer', '')}", client)
    truth = ", ".join(printable(names[label], 60) for label in sample.get("labels", [sample["truth"]]))
    if sample["prediction"] < 0:
        return (NO_ANSWER, f"is {truth}", client)
    prediction = printable(names[sample["prediction"]], 60)
    first = f"{prediction} {percent(sample['confidence'])}\u00a0%"
    if len(sample.get("labels", ())) > 1:
        return (first, f"is {truth}", client)
    return (first, client) if is_right else (first, f"is {truth}, given {percent(sample['of_truth'])}\u00a0%", client)


def shown_words(details: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what the page shows of the prompt: ``texts``, the ``table`` of nearest words, or what it ``trains``.

    None where a run kept nothing.
    """
    words = (details or {}).get("words")
    if not words:
        return None
    texts = [
        (str(row["whose"]), str(row["before"]), str(row["after"]), bool(row.get("is_zero_shot")))
        for row in words.get("texts") or ()
    ]
    shown: dict[str, Any] = {"texts": texts, "trains": str(words.get("trains") or ""), "table": None}
    if vectors := words.get("vectors"):
        rows = vectors["vectors"]
        several = len({(row["context"], row["class_name"]) for row in rows}) > 1
        shown |= {
            "whose": str(words.get("whose") or ""),
            "model": str(vectors.get("backbone") or ""),
            "table": [
                (
                    f"{row['class_name'] or row['context']} {row['position']}" if several else str(row["position"]),
                    [", ".join(f"{word} {1 - float(distance):.2f}" for word, distance in row["words"])],
                )
                for row in rows
            ],
        }
    return shown
