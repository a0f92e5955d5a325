"""One page of the site for each method, from its class, its options and what other pages say of it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from page_sections import Section, about, rows, sections
from repository_links import site_links

from promptfed.commands.configuration_page import option_table
from promptfed.commands.method_listing import needs_of, traffic_cells
from promptfed.commands.option_rows import section_rows
from promptfed.method import METHODS, Method
from promptfed.tasks.base import TASKS

DOCS = Path(__file__).parents[1]
DIFFERENT = re.compile(r"^(?:Different from|Departures?|Of the released|The paper's full text|No official code)")
"""How the paragraph of a docstring begins that says where the code departs from the paper."""
IN_FACTS = {"paper", "file"}
"""Columns of tables whose content every page begins with."""


def titles() -> dict[str, str]:
    """Return the key of each method of promptfed's own with its title."""
    return {key: METHODS[key].name for key in METHODS if METHODS.origin(key) == "promptfed"}


def method_page(key: str, traffic: Mapping[str, Any]) -> str:
    """Return the page of one method as Markdown.

    Args:
        key: Its name on the command line.
        traffic: ``bytes_up`` and ``bytes_down`` of a client in a round, counted as ``list methods --bytes`` does.
    """
    kind = METHODS[key]
    summary, *paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(kind.__doc__ or ""))
    how, departures = _split(paragraphs)
    parts = [f"# {kind.name}", summary, _facts(key, kind, traffic)]
    if how:
        parts += ["## How it works", *how]
    parts += _try_it(key, kind)
    parts += ["## Where it departs from the paper", *departures] if departures else []
    written = _written(key, kind)
    if written:
        parts += [*([] if departures else ["## Where it departs from the paper"]), *written]
    parts += _results(key, kind)
    if fields := section_rows("method", kind.Config):
        parts += [
            "## Options",
            f"Set by `--set method.NAME=VALUE`, or `method_options={{...}}` in Python.\n\n{option_table(fields)}",
        ]
    text, missing = site_links("\n\n".join(part.strip("\n") for part in parts) + "\n", DOCS)
    assert not missing, f"the page of {key} links {missing}"
    return text


def _split(paragraphs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the paragraphs of a docstring about the method, and those about where it departs from the paper."""
    how: list[str] = []
    departures: list[str] = []
    for paragraph in paragraphs:
        lines = paragraph.splitlines()
        cut = next((n for n, line in enumerate(lines) if DIFFERENT.match(line)), len(lines))
        if departures:
            cut = 0
        how += ["\n".join(lines[:cut])] if cut else []
        departures += ["\n".join(lines[cut:])] if cut < len(lines) else []
    return how, departures


def _facts(key: str, kind: type[Method], traffic: Mapping[str, Any]) -> str:

    up, down = traffic_cells({"bytes_up": None, "bytes_down": None, **traffic})
    usual = kind.aggregators[0] if kind.aggregators else "mean"
    facts = {
        "Name": f"`{key}`",
        "Paper": kind.paper,
        "Model": needs_of(kind) + (f", which must offer {', '.join(sorted(kind.requires))}" if kind.requires else ""),
        "Trained": kind.trains,
        "Stays with the client": kind.keeps,
        "A client and round": f"{up} up, {down} down, by `promptfed list methods --bytes`"
        if up != "-"
        else "not counted",
        "Aggregator": f"`{usual}`" + ("" if kind.aggregators else " by default; any"),
        "Source": f"`{_source(kind)}`",
    }
    return "\n".join(f"* **{head}:** {text}" for head, text in facts.items())


def _source(kind: type[Method]) -> str:
    """Return the file of a method as the repository has it."""
    parts = kind.__module__.split(".")
    folder = parts[1:] if parts[1] == "blackbox" else parts
    path = "/".join(folder)
    is_package = hasattr(sys.modules[kind.__module__], "__path__")
    return f"{path}/__init__.py" if is_package else f"{path}.py"


def _try_it(key: str, kind: type[Method]) -> list[str]:
    usual = {
        "dual encoder": "clip-fewshot",
        "language model": "text-classification",
        "forecaster": "forecast",
        "policy": "allocation",
    }
    task = "blackbox-text" if kind.access == "black box" else usual[kind.model_kind]
    own = [name for name in TASKS if key == TASKS[name].method or key in TASKS[name].methods]
    if own and task not in own and "clip-fewshot" not in own:
        task = own[0]
    command = f"promptfed train --task {task} --method {key}"
    if kind.access == "any":
        return []
    return ["## Try it", f"```console\n$ {command}\n$ promptfed list methods {key}\n```"]


@cache
def _cut(page: str) -> list[Section]:
    return sections((DOCS / page).read_text(encoding="utf-8"))


def _written(key: str, kind: type[Method]) -> list[str]:
    """Return what docs/methods.md and docs/blackbox.md say of a method."""
    parts = []
    for page, cut in ((name, _cut(name)) for name in ("methods.md", "blackbox.md")):
        for section, blocks in about(key, kind.name.removeprefix("PromptFL+"), cut):
            parts += [f"From [{section.title}](/{page}#{section.anchor}):", *blocks]
        for row in rows(key, kind.name, cut):
            pairs = zip(row.heads[1:], row.cells[1:], strict=True)
            described = [f"* **{head}:** {text}" for head, text in pairs if text and head not in IN_FACTS]
            if not described:
                continue
            parts += [f"From the table in [{row.section.title}](/{page}#{row.section.anchor}):", "\n".join(described)]
    return parts


def _results(key: str, kind: type[Method]) -> list[str]:
    """Return the rows of docs/results.md that are of a method, with zero-shot's beside them."""
    parts = []
    for row in rows(key, kind.name, _cut("results.md")):
        title = ", ".join([*row.section.above, row.section.title])
        lines = [row.heads, tuple("---" for _ in row.heads), *([row.zero_shot] if row.zero_shot else []), row.cells]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        parts += [f"[{title}](/results.md#{row.section.anchor}):", table]
    if not parts:
        return []
    return ["## Results", "Figures of [the results page](/results.md), which has the commands.", *parts]
