"""docs/configuration.md: all options of promptfed, from the models that define them.

``python scripts/make_configuration_page.py`` writes it.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable

from promptfed.commands.option_rows import OptionRow, registries, run_rows, section_rows, tables
from promptfed.option import GROUPS

WIDTH = 100
"""Columns of prose."""
SHARED = 4
"""Methods that have the same option with the same default, from which on it stands in a table of its own."""
PACKAGE = "promptfed"

INTRODUCTION = """\
# Configuration

<!-- Written by scripts/make_configuration_page.py from the models that define the options. -->

Every option of a run has one name. It is given in four ways, of which later ones win:

| where | how |
|---|---|
| a YAML file | `--config FILE`, with lines `rounds: 40` and `method_options: {lr: 0.02}` |
| a flag | `--rounds 40`: the option's name with dashes |
| `--set` | `--set rounds=40 --set method.lr=0.02`: every option, several times on a line |
| Python | `promptfed.train(rounds=40, method_options={"lr": 0.02})` |

`promptfed train --help` shows the flags that people type most. All flags of this page work.
`promptfed list options` shows the same tables in a terminal, and `promptfed list options fedprox`
those of one method, aggregator or task. A run keeps all its options in `config.yaml`, and
`promptfed train --config runs/NAME/config.yaml` repeats it.

The last column says whether an option may change when a run goes on (`promptfed train --resume`,
`run.resume()`). *larger*: only upwards. *moved*: the same model in another place; it is compared by
its fingerprint. *yes*: with any value, because it says where and how fast the work is done, or what
it may cost. `promptfed compare` counts two runs as the same if they agree in all other options.
"""
METHODS = """\
Options of a method are set by `--set method.NAME=VALUE`. The first table has those that many
methods share. Below it, each method names those of them that it has, and lists the others.
"""


def configuration_page() -> str:
    """Return the text of docs/configuration.md, of what promptfed itself has."""
    parts = [INTRODUCTION]
    for group, title in GROUPS.items():
        if rows := run_rows(group):
            parts.append(f"## {title}\n\n{option_table(rows)}")
    for title, rows in tables("personalize").items():
        parts.append(f"## {title}\n\n{option_table(rows, resumes=False)}")
    parts += [
        "## Options of tasks\n\nThey are set by `--set task.NAME=VALUE`.\n",
        *(f"### {name}\n\n{option_table(rows)}" for name, rows in _own("task").items() if rows),
        "## Options of aggregators\n\nThey are set by `--set aggregator.NAME=VALUE`.\n",
        *(f"### {name}\n\n{option_table(rows)}" for name, rows in _own("aggregator").items() if rows),
        f"## Options of methods\n\n{METHODS}",
        *_methods(),
    ]
    return "\n".join(parts)


def _own(section: str) -> dict[str, list[OptionRow]]:
    """Return name -> options of the methods, aggregators or tasks that are no plug-ins."""
    registry = registries()[section]
    return {n: section_rows(section, registry[n].Config) for n in registry if registry.origin(n) == PACKAGE}


def _methods() -> Iterable[str]:
    methods = _own("method")
    counts = Counter(row for rows in methods.values() for row in rows)
    shared = [row for row, count in counts.items() if count >= SHARED]
    yield f"### Shared by many methods\n\n{option_table(shared)}"
    for name, rows in methods.items():
        common = ", ".join(f"`{row.name.partition('.')[2]}`" for row in rows if row in shared)
        others = [row for row in rows if row not in shared]
        text = textwrap.fill(f"Shared: {common}.", WIDTH) + "\n" if common else ""
        if not rows:
            text = "It has no options.\n"
        yield f"### {name}\n\n{text}" + (
            f"\n{option_table(others)}" if text and others else option_table(others) if others else ""
        )


def option_table(rows: Iterable[OptionRow], resumes: bool = True) -> str:
    """Return ``rows`` as a Markdown table; flags and resume have columns where any row has them."""
    rows = list(rows)
    has_flags, resumes = any(row.flag for row in rows), resumes and any(row.flag or row.resume for row in rows)
    head = ["option", "values", "default", "meaning", *["flag"] * has_flags, *["on resume"] * resumes]
    lines = [_line(head), "|" + "---|" * len(head)]
    for row in rows:
        cells = [f"`{row.name}`", _cell(row.values), _cell(row.default), _cell(row.meaning)]
        cells += [f"`{row.flag}`" if row.flag else ""] * has_flags + [row.resume] * resumes
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    """Return ``text`` so that Markdown shows it as it is."""
    for sign in "\\|*_<" if "`" not in text else "|":
        text = text.replace(sign, f"\\{sign}")
    return text
