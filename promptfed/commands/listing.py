"""`promptfed list`: methods, backbones, oracles, tasks, aggregators, measures, one line each, and options and runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from inspect import getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptfed.commands import options
from promptfed.commands.backbone_listing import print_towers, with_towers
from promptfed.commands.flags import Flags, with_flags
from promptfed.commands.method_listing import needs_of, print_methods, traffic_cells, traffic_of
from promptfed.commands.option_listing import show_options
from promptfed.commands.option_rows import registries, section_rows
from promptfed.commands.plain_tables import labelled, plain_table
from promptfed.counts import readable_age
from promptfed.errors import ConfigError, unknown_name
from promptfed.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

    from promptfed.method import Method
    from promptfed.registry import Registry

KINDS = (
    "methods", "backbones", "oracles", "tasks", "sources", "aggregators", "processors", "engines", "measures",
    "observers", "attacks", "options", "runs",
)  # fmt: skip
OTHER_NAMES = {"models": "backbones"}
"""Other names of kinds, such as that of the entry-point group ``promptfed.models`` -> one of ``KINDS``."""
TEXT_SOURCES = {
    "texts:NAME": {"about": "Texts: bundled ones, reviews, questions, requests or tools; for tasks with texts."},
    "tsv:PATH": {"about": "Texts: a tab-separated file, or a folder with train.tsv, dev.tsv and test.tsv."},
    "csv:PATH": {"about": "Texts: a comma-separated file, or a folder with train.csv, dev.csv and test.csv."},
    "metatool:DIR": {"about": "Texts: requests and their tools, from a clone of MetaTool (task tool-routing)."},
    "jsonl:PATH": {"about": "Texts: one JSON object a line, or a folder with train.jsonl, dev.jsonl and test.jsonl."},
    "synthetic:RUN": {
        "about": "Texts: the synthetic ones of a finished run of private_evolution or fedpit, or its export."
    },
}
"""Sources of texts; hf:NAME reads both images and texts."""
FIGURES = ("local", "base", "new", "hm")
WIDE = 110
"""Columns of a terminal that is wide enough to show the method, model and data of runs too."""
NARROW = 72
"""On fewer columns, runs have two of their four figures."""


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("list")(list_)


def known(kind: str) -> dict[str, dict[str, Any]]:
    """Return name -> facts for all entries of a kind.

    Args:
        kind: One of ``KINDS`` but runs.
    """
    if kind == "methods":
        from promptfed.method import METHODS

        return {name: _method(name, METHODS[name]) for name in METHODS}
    if kind == "aggregators":
        from promptfed.aggregators.base import AGGREGATORS

        return {name: _described(AGGREGATORS, name) for name in AGGREGATORS}
    if kind == "processors":
        from promptfed.processors.base import PROCESSORS

        return {name: _described(PROCESSORS, name) for name in PROCESSORS}
    if kind == "tasks":
        from promptfed.tasks import TASKS

        return {name: _described(TASKS, name) for name in TASKS}
    if kind == "engines":
        from promptfed.engines.registry import ENGINES

        return {name: {"about": _about(ENGINES[name]), "origin": ENGINES.origin(name)} for name in ENGINES}
    if kind == "measures":
        from promptfed.measures.base import MEASURES

        return {name: _measure(MEASURES, name) for name in MEASURES}
    if kind == "attacks":
        from promptfed.attacks.base import ATTACKS

        return {name: {**_described(ATTACKS, name), "knows": ATTACKS[name].knows} for name in ATTACKS}
    if kind == "observers":
        from promptfed.observers.base import OBSERVERS

        return {name: _described(OBSERVERS, name) for name in OBSERVERS}
    if kind == "backbones":
        from promptfed.backbones import BACKBONES, MODELS
        from promptfed.forecasters.names import FORECASTERS
        from promptfed.language_models.names import LANGUAGE_MODELS
        from promptfed.policies.names import POLICIES

        return {
            name: {"about": about} for name, about in (BACKBONES | LANGUAGE_MODELS | FORECASTERS | POLICIES).items()
        } | {name: {"about": _about(MODELS[name]), "origin": MODELS.origin(name)} for name in MODELS}
    if kind == "sources":
        from promptfed.tasks.sources import KINDS as BUILT_IN
        from promptfed.tasks.sources import SOURCES, maker_of

        return {
            **{form: {"about": _returned(maker_of(name))} for name, (_, form) in BUILT_IN.items()},
            **TEXT_SOURCES,
            **{name: {"about": _returned(SOURCES[name]), "origin": SOURCES.origin(name)} for name in SOURCES},
        }
    if kind == "oracles":
        from promptfed.blackbox.oracle_factory import ORACLES

        return {name: {"about": about} for name, about in ORACLES.items()}
    raise unknown_name("kind", kind, KINDS)


def _method(name: str, kind: type[Method]) -> dict[str, Any]:
    from promptfed.method import METHODS
    from promptfed.resolve import DEFAULT_AGGREGATORS

    return {
        "origin": METHODS.origin(name),
        "name": kind.name,
        "paper": kind.paper,
        "about": _about(kind),
        "trains": kind.trains,
        "keeps": kind.keeps,
        "access": kind.access,
        "needs": needs_of(kind),
        "requires": sorted(kind.requires),
        "aggregator": (kind.aggregators or DEFAULT_AGGREGATORS)[0],
        "aggregators": list(kind.aggregators) or "any",
        "options": _fields(kind.Config),
    }


def _described(registry: Registry[Any], name: str) -> dict[str, Any]:
    kind = registry[name]
    return {"about": _about(kind), "origin": registry.origin(name), "options": _fields(kind.Config)}


def _measure(registry: Registry[Any], name: str) -> dict[str, Any]:
    kind = registry[name]
    facts = {"name": kind.name, "better": kind.better, "unit": kind.unit}
    return {**facts, "about": _about(kind), "origin": registry.origin(name)}


def _about(thing: Any) -> str:
    """Return the first sentence of a docstring, the class's own or an inherited one."""
    return (getdoc(thing) or "").partition("\n")[0].replace("``", "")


def _returned(function: Any) -> str:
    """Say what ``function`` returns, by the first sentence of its docstring."""
    about = _about(function).removeprefix("Return ")
    return about[:1].upper() + about[1:]


def _fields(config: Any) -> dict[str, Any]:
    """Return option -> default value."""
    return {name: field.get_default(call_default_factory=True) for name, field in config.model_fields.items()}


@with_flags(("task", "backbone"))
def list_(
    flags: Flags,
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(KINDS)}.", metavar="KIND")] = "methods",
    name: Annotated[str | None, typer.Argument(help="Show all about this one.", metavar="NAME")] = None,
    folder: Annotated[Path, typer.Option("--runs", help="Where runs are kept.", metavar="DIR")] = Path("runs"),
    bytes_: Annotated[
        bool | None,
        typer.Option(
            "--bytes/--no-bytes",
            help="Of methods: count what is sent, which loads models [only with NAME, --task or --backbone].",
        ),
    ] = None,
    quiet: Annotated[bool, options.quiet_option("the names, one a line,")] = False,
    json: options.Json = False,
) -> None:
    """List methods, backbones, oracles, tasks, measures, options, runs and more; with NAME, all about one.

    Of a method the line says which model it needs (a dual encoder such as CLIP, a language model, or a black box, which
    is an oracle) and the default aggregator; with --bytes also what a client sends and is sent in a round, on the task
    that is named or the method's usual one. Runs come newest first, accuracies in percent.

    \b
    Examples:
      promptfed list methods
      promptfed list methods fedtpg                  paper, what is trained, sent and kept, options
      promptfed list methods --bytes                 and what a client sends in a round
      promptfed list methods --task clip-domains --backbone lit
      promptfed list methods --backbone lm:gemma     bytes of methods on language models with it
      promptfed list aggregators trimmed_mean
      promptfed list options                         of a run; list options place, list options fedprox
      promptfed list runs --runs experiments
      promptfed list methods --json
    """
    import json as as_json

    from promptfed.report.consoles import output

    if kind == "options":
        show_options(name, json, quiet)
        return
    kind = OTHER_NAMES.get(kind, kind)
    rows = _runs(folder) if kind == "runs" else known(kind)
    if name is not None:
        if kind == "runs":
            raise ConfigError(f"'{name}': promptfed report RUN shows all about a run; list runs takes no name")
        name = next((row for row in rows if row.partition(":")[0] == name), name)  # folder is folder:PATH
        if name not in rows:
            raise unknown_name(kind.removesuffix("s"), name, rows)
        rows = {name: rows[name]}
    if quiet and not json:
        for each in rows:
            typer.echo(printable(each))
        return
    counts_bytes = bool(name or flags["task"] or flags["backbone"]) if bytes_ is None else bytes_
    if kind == "methods" and counts_bytes:
        traffic = traffic_of(flags["task"], flags["backbone"], rows)
        rows = {method: {**row, **traffic[method]} for method, row in rows.items()}
    if kind == "backbones":
        rows = with_towers(rows)
    if json:
        typer.echo(as_json.dumps(rows, indent=2, default=str))
        return
    console = output()
    if kind == "runs":
        _print_runs(console, rows, folder)
    elif name is not None:
        _print_details(console, kind, name, rows[name])
    elif kind == "methods":
        print_methods(console, rows, counts_bytes)
    else:
        _print_descriptions(console, kind, rows)
        if kind == "backbones":
            print_towers(console)


def _print_descriptions(console: Console, kind: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    from rich.text import Text

    table = plain_table()
    table.add_column(kind.removesuffix("s"), no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for name, row in rows.items():
        table.add_row(labelled(name, row), Text(row["about"]))  # Text, not markup: square brackets are meant
    console.print(table)


def _print_details(console: Console, kind: str, name: str, row: Mapping[str, Any]) -> None:
    """Print every field of one entry, and its options with their defaults and what they mean."""
    from rich.table import Table
    from rich.text import Text

    facts = {key: value for key, value in row.items() if key not in ("options", "bytes_up", "bytes_down")}
    if "bytes_up" in row:
        facts["a round"] = " up, ".join(traffic_cells(row)) + " down, of a client"
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(kind.removesuffix("s"), name)
    for key, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        table.add_row(key, Text(text or "-"))
    console.print(table)
    if "options" in row:
        section = kind.removesuffix("s")
        ways = {
            "observers": f"--observer {name}:NAME=VALUE,...",
            "processors": f"--set 'processors=[{{{name}: {{NAME: VALUE}}}}]'",
        }
        way = ways.get(kind, f"--set {section}.NAME=VALUE")
        console.print(f"options ({way}):" if row["options"] else "no options", highlight=False, markup=False)
        choices = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
        choices.add_column(no_wrap=True)
        choices.add_column(overflow="fold")
        for option in section_rows(section, _registry(kind)[name].Config):
            choices.add_row(Text(f"{option.name.partition('.')[2]}={option.default}"), Text(option.meaning))
        console.print(choices)


def _registry(kind: str) -> Registry[Any]:
    """Return the registry of things that have options of their own."""
    from promptfed.attacks.base import ATTACKS
    from promptfed.observers.base import OBSERVERS
    from promptfed.processors.base import PROCESSORS

    by_kind: dict[str, Registry[Any]] = {"observers": OBSERVERS, "processors": PROCESSORS, "attacks": ATTACKS}
    registry: Registry[Any] = by_kind[kind] if kind in by_kind else registries()[kind.removesuffix("s")]
    return registry


def _print_runs(console: Console, rows: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Print runs newest first: status, accuracies in percent, age; method, model and data where there is room."""
    from rich.text import Text

    from promptfed.report.tables import percent

    if not rows:
        console.print(f"no runs in {printable(folder)}/", highlight=False, markup=False)
        return
    wide = console.width >= WIDE
    figures = FIGURES if console.width >= NARROW else ("base", "hm")
    table = plain_table()
    table.collapse_padding = True
    table.add_column("run", overflow="fold", min_width=12)
    for column in ("status", *("HM" if figure == "hm" else figure for figure in figures), "age"):
        table.add_column(column, no_wrap=True, justify="left" if column == "status" else "right")
    for column in ("method", "model", "data") if wide else ():
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    for row in rows.values():
        is_open = row["status"] in ("running", "stopped")
        status = f"{row['status']} {row['round']}/{row['rounds']}" if is_open else row["status"]
        cells = [status, *(percent(row[figure]) for figure in figures), _age(row["updated"])]
        extra = [printable(row[key] or "-", 40) for key in ("method", "model", "data")] if wide else []
        table.add_row(Text(printable(row["name"])), *cells, *map(Text, extra))
    console.print(table)
    console.print(
        f"in {printable(folder)}/, newest first; test accuracy in %; stopped 3/20: after round 3 of 20",
        highlight=False,
        markup=False,
    )
    for row in rows.values():
        if row["state"].startswith("damaged"):
            console.print(f"{printable(row['name'])} is {printable(row['state'])}", highlight=False, markup=False)


def _age(moment: float | None) -> str:
    """Return how long ago ``moment`` (seconds since 1970) was."""
    return "-" if moment is None else readable_age(time.time() - moment)


def _runs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return path -> summary of the runs in ``folder``, newest first."""
    from promptfed.report.summary import run_summary

    summaries = {str(path.parent): run_summary(path.parent) for path in folder.glob("*/config.yaml")}
    return dict(sorted(summaries.items(), key=lambda item: (-(item[1]["updated"] or 0.0), item[0])))
