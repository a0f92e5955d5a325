"""`promptfed list | report | tasks show`: look at what there is, at runs, and at who holds what."""

from __future__ import annotations

from inspect import getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptfed.commands import options
from promptfed.errors import unknown_name

if TYPE_CHECKING:
    from promptfed.methods.base import Method

KINDS = ("methods", "backbones", "oracles", "tasks", "aggregators", "runs")


def add_to(app: typer.Typer) -> None:
    app.command("list")(list_)
    app.command("report")(report)
    tasks = typer.Typer(no_args_is_help=True, help="Look at tasks and partitions.", rich_markup_mode=None)
    tasks.command("show")(show)
    app.add_typer(tasks, name="tasks")


def known(kind: str) -> dict[str, dict[str, Any]]:
    """Name -> what is worth knowing, of one of ``KINDS`` but runs."""
    if kind == "methods":
        from promptfed.methods.base import METHODS

        return {name: _method(METHODS[name]) for name in METHODS}
    if kind == "aggregators":
        from promptfed.aggregators.base import AGGREGATORS

        return {name: {"about": _about(AGGREGATORS[name]), "options": _fields(AGGREGATORS[name].Config)}
                for name in AGGREGATORS}  # fmt: skip
    if kind == "tasks":
        from promptfed.tasks import TASKS

        return {name: {"about": _about(TASKS[name]), "options": _fields(TASKS[name].Config)} for name in TASKS}
    if kind == "backbones":
        from promptfed.backbones import BACKBONES

        return {name: {"about": about} for name, about in BACKBONES.items()}
    if kind == "oracles":
        from promptfed.blackbox.backends import ORACLES

        return {name: {"about": about} for name, about in ORACLES.items()}
    raise unknown_name("kind", kind, KINDS)


def _method(kind: type[Method]) -> dict[str, Any]:
    from promptfed.experiment import DEFAULT_AGGREGATORS

    return {
        "name": kind.name,
        "paper": kind.paper,
        "about": _about(kind),
        "trains": kind.trains,
        "keeps": kind.keeps,
        "access": kind.access,
        "requires": sorted(kind.requires),
        "aggregator": (kind.aggregators or DEFAULT_AGGREGATORS)[0],
        "aggregators": list(kind.aggregators) or "any",
        "options": _fields(kind.Config),
    }


def _traffic(task: str | None, backbone: str | None) -> dict[str, dict[str, Any]]:
    """Method -> bytes that a client is sent and sends in a round, or why the method does not fit. White-box methods are
    counted on ``task`` if it has a backbone, black-box methods if it has an oracle, others on the usual task of theirs.
    """
    from promptfed.config import RunConfig, build_config
    from promptfed.errors import PromptFedError
    from promptfed.experiment import Experiment, resolve
    from promptfed.methods.base import METHODS
    from promptfed.tasks import TASKS
    from promptfed.traffic import first_round, sizes_only

    def build(name: str, like: Experiment | None = None) -> Experiment:
        config = resolve(build_config(given, {"method": name}))
        return Experiment.build(config, like=like, oracle_for=sizes_only if config.oracle is not None else None)

    chosen = task or RunConfig.model_fields["task"].default
    is_black = TASKS[chosen].oracle is not None
    found: dict[str, dict[str, Any]] = {}
    for usual, asks in ((chosen, is_black), ("clip-fewshot" if is_black else "blackbox-text", not is_black)):
        given = options.given({"task": usual, "backbone": None if asks else backbone})
        plain = build("zero_shot")
        names = [name for name in METHODS if (METHODS[name].access == "black box") == asks]
        for name in names:
            try:
                sent = first_round(build(name, plain))
                found[name] = {"bytes_down": sent.down, "bytes_up": sent.up}
            except PromptFedError as error:
                found[name] = {"bytes_down": None, "bytes_up": None, "unfit": str(error)}
    return found


def _about(thing: Any) -> str:
    """First sentence of a docstring, its own or inherited."""
    return (getdoc(thing) or "").partition("\n")[0].replace("``", "")


def _fields(config: Any) -> dict[str, Any]:
    """Option -> default value."""
    return {name: field.get_default(call_default_factory=True) for name, field in config.model_fields.items()}


def list_(
    kind: Annotated[str, typer.Argument(help=f"One of: {', '.join(KINDS)}.", metavar="KIND")] = "methods",
    folder: Annotated[Path, typer.Option("--runs", help="Where runs are kept.", metavar="DIR")] = Path("runs"),
    bytes_: Annotated[
        bool, typer.Option("--bytes/--no-bytes", help="Of methods: count what is sent, which loads the backbone.")
    ] = True,
    task: options.Task = None,
    backbone: options.Backbone = None,
    json: options.Json = False,
) -> None:
    """List methods, backbones, oracles, tasks, aggregators (with their options and defaults) or runs.

    For methods: what is trained, what a client sends and is sent in a round of the task, what it keeps to itself,
    the model it needs (a white box, a backbone; a black box, an oracle) and what that must be able to do, and the
    default aggregator. Options are in --json.

    \b
    Examples:
      promptfed list methods
      promptfed list methods --task clip-domains --backbone lit
      promptfed list backbones
      promptfed list runs --runs experiments
      promptfed list methods --json
    """
    import json as as_json

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = _runs(folder) if kind == "runs" else known(kind)
    if kind == "methods" and bytes_:
        sent = _traffic(task, backbone)
        rows = {name: {**row, **sent[name]} for name, row in rows.items()}
    if json:
        typer.echo(as_json.dumps(rows, indent=2, default=str))
        return
    if kind == "methods":
        rows = {name: _method_cells(row, bytes_) for name, row in rows.items()}
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    table = Table(title=None, show_lines=kind == "methods")
    # a name must be there whole, to be copied
    table.add_column(kind.removesuffix("s"), no_wrap=True, min_width=max(map(len, rows), default=0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for name, row in rows.items():
        # Text, not markup: square brackets are meant
        table.add_row(name, *(Text(_cell(row.get(column))) for column in columns))
    console = Console()
    console.print(table if rows else f"no runs in {folder}/")


def _method_cells(row: dict[str, Any], with_bytes: bool) -> dict[str, str]:
    """What a terminal has room for: three things in one wide column, the rest in narrow ones."""
    from promptfed.report.html import readable_bytes

    said = {"what it is": f"{row['paper']}\ntrains: {row['trains']}\nkeeps:  {row['keeps']}"}
    if with_bytes:
        up, down = row["bytes_up"], row["bytes_down"]
        said["sent a round"] = "-" if up is None else f"{readable_bytes(up)} up\n{readable_bytes(down)} down"
    access = "any model" if row["access"] == "any" else row["access"]
    return {**said, "needs": ",\n".join([access, *row["requires"]]), "aggregator": row["aggregator"]}


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={_cell(v) if not isinstance(v, tuple) else f'{len(v)} given'}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:.3g}"
    return "-" if value is None else str(value)


def _runs(folder: Path) -> dict[str, dict[str, Any]]:
    from promptfed.report.summary import run_summary

    found = sorted(path.parent for path in folder.glob("*/config.yaml"))
    return {str(path): run_summary(path) for path in found}


def report(run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")]) -> None:
    """Write RUN/report.html anew: curves, partition, per-client bars, cost. Works on unfinished runs too.

    \b
    Example:
      promptfed report runs/NAME
    """
    from promptfed.report.html import write_report
    from promptfed.runs.directory import RunDirectory

    typer.echo(write_report(RunDirectory.open(run)))


def show(
    task: options.Task = None,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    clients: options.Clients = None,
    shots: options.Shots = None,
    partition: options.Partition = None,
    alpha: options.Alpha = None,
    partition_seed: options.PartitionSeed = None,
    strict: options.Strict = None,
    config: options.ConfigFile = None,
    set_: options.Set = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw it to this file (.png, .svg, .pdf).")] = None,
    json: options.Json = False,
) -> None:
    """Print, and plot, which client holds how many examples of which class; nothing is trained.

    \b
    Examples:
      promptfed tasks show --task clip-fewshot
      promptfed tasks show --data folder:photos --partition dirichlet --alpha 0.1 --clients 20 --plot who.png
      promptfed tasks show --task blackbox-text --data texts:reviews --partition domain
    """
    import json as as_json

    from rich.console import Console
    from rich.table import Table

    from promptfed.experiment import resolve
    from promptfed.tasks import TASKS
    from promptfed.tasks.show import partition_table, plot_partition

    flags = {
        "task": task, "data": data, "data_root": data_root, "clients": clients, "shots": shots, "partition": partition,
        "alpha": alpha, "partition_seed": partition_seed, "strict": strict,
    }  # fmt: skip
    chosen = resolve(options.config_from(flags, config, set_))
    built = TASKS[chosen.task].build(chosen)
    table = partition_table(built)
    if plot is not None:
        plot_partition(table).savefig(plot, bbox_inches="tight")
    if json:
        typer.echo(as_json.dumps(table, indent=2))
        return
    rows = Table("client", "name", "train", "val", "test", "classes", title=f"{built.name}: {chosen.data}")
    for client in table["clients"]:
        held = [f"{name} {count}" for name, count in zip(table["classes"], client["train"], strict=True) if count]
        counts = (str(sum(client[part])) for part in ("train", "val", "test"))
        rows.add_row(str(client["client"]), client["name"], *counts, ", ".join(held))
    console = Console()
    console.print(rows)
    test = f"test {table['examples']}"
    said = f"{len(built.base_classes)} base classes ({len(built.base_test)} {test}), "
    said += (
        f"{len(built.new_classes)} new classes ({len(built.new_test)} {test})" if built.new_classes else "none is new"
    )
    console.print(said, highlight=False)
    for note in built.notes:
        console.print(f"note: {note}", highlight=False)
    if plot is not None:
        console.print(f"drawn to {plot}", highlight=False)
