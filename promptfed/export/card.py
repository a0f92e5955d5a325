"""The model card of a bundle: front matter that the hub reads, figures, privacy, and how to load it."""

from __future__ import annotations

import json
import re

from promptfed.export.bundle import Bundle
from promptfed.export.folder import LanguageModelMeta, Meta
from promptfed.export.origin import BundleOrigin
from promptfed.export.readme import readme
from promptfed.intervals import LEVEL
from promptfed.printable import markdown_cell, printable

PIPELINES = {"images": "zero-shot-image-classification", "texts": "text-classification", "questions": "text-generation"}
"""Kind of example -> the task by which the hub files a model."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
NO_PRIVACY = "No differential privacy and no secure sums: the prompt can tell of the data that it was trained on."


def model_card(bundle: Bundle, where: str, license: str) -> str:
    """Return the README of a bundle that is given away.

    Args:
        bundle: The bundle.
        where: What ``promptfed.load`` takes: ``hf:USER/NAME``, or a path.
        license: An identifier of the hub, such as apache-2.0.
    """
    meta = bundle.meta
    example = '["photo.jpg"]' if meta.examples == "images" else '["Where is my parcel?"]'
    page = readme(bundle)
    return "\n".join(
        [
            *_front_matter(meta, license),
            page.split("\n\n", 1)[0],
            "",
            "## Load it in three lines",
            "",
            "```python",
            "import promptfed as pf",
            f'bundle = pf.load("{where}")',
            f"print(bundle.predict({example})[0].ranked)",
            "```",
            "",
            "## Data",
            "",
            *_data(meta),
            "",
            "## Figures",
            "",
            *_figures(meta.origin),
            "",
            "## Privacy",
            "",
            *_privacy(meta.origin),
            "",
            "## What it is",
            "",
            page.split("\n\n", 1)[1],
        ]
    )


def _front_matter(meta: Meta, license: str) -> list[str]:
    """Return the lines of YAML; strings are written as JSON, which YAML reads."""
    tags = ["promptfed", "federated-learning", "prompt-learning", meta.method]
    base = _base_model(meta)
    return [
        "---",
        f"license: {json.dumps(license)}",
        "library_name: promptfed",
        *([f"base_model: {json.dumps(base)}"] if base else []),
        f"pipeline_tag: {PIPELINES[meta.examples]}",
        f"tags: {json.dumps(tags)}",
        "---",
        "",
    ]


def _base_model(meta: Meta) -> str:
    """Return the frozen model's name on the hub; empty: it has none there."""
    name = meta.model.public_name if isinstance(meta.model, LanguageModelMeta) else meta.model.name
    for prefix in ("clip-hf:", "open_clip:hf-hub:", "lm:", "local:"):
        name = name.removeprefix(prefix)
    return name if HUB_NAME.fullmatch(name) and not name.startswith(("open_clip:", ".", "/")) else ""


def _data(meta: Meta) -> list[str]:
    origin = meta.origin
    source = (
        f"`{printable(origin.data)}`" if origin is not None and origin.data else "data that the bundle does not name"
    )
    names = ", ".join(printable(name) for name in meta.classes[:50])
    more = f" and {len(meta.classes) - 50} more" if len(meta.classes) > 50 else ""
    lines = [
        f"Trained on {source} by federated learning: the {meta.examples} stayed with the clients.",
        f"{len(meta.classes)} classes: {names}{more}.",
    ]
    if origin is not None and origin.new_classes:
        lines.append(f"Held out for tests: {', '.join(printable(name) for name in origin.new_classes)}.")
    return lines


def _figures(origin: BundleOrigin | None) -> list[str]:
    if origin is None or not origin.accuracy:
        return ["The bundle has no test figures."]
    rows = ["| test accuracy | % | 95 % interval |", "|---|---:|---:|"]
    assert LEVEL == 0.95, "the heading says so"
    for name, value in origin.accuracy.items():
        ends = origin.intervals.get(name)
        interval = f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else "unknown"
        rows.append(f"| {markdown_cell(name)} | {100 * value:.1f} | {interval} |")
    if origin.below_zero_shot:
        rows += ["", f"Below zero-shot, the model without any training: {', '.join(origin.below_zero_shot)}."]
    return rows


def _privacy(origin: BundleOrigin | None) -> list[str]:
    if origin is None or not origin.privacy:
        return [NO_PRIVACY]
    return [" ".join(f"{printable(line)}." for line in origin.privacy)]
