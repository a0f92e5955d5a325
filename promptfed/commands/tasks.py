"""`promptfed tasks show`: look at who holds what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.commands.flags import Flags, run_flags, with_flags
from promptfed.printable import printable


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    tasks = typer.Typer(no_args_is_help=True, help="Look at tasks and partitions.", rich_markup_mode=None)
    tasks.command("show")(show)
    app.add_typer(tasks, name="tasks")


@with_flags(run_flags("task"))
def show(
    flags: Flags,
    config: options.ConfigFile = None,
    set_: options.Set = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw it to this file (.png, .svg, .pdf).")] = None,
    quiet: Annotated[bool, options.quiet_option("a line a client, its number, name and counts,")] = False,
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

    from rich.table import Table

    from promptfed.report.consoles import output
    from promptfed.report.figures import save
    from promptfed.report.partition_plot import plot_partition
    from promptfed.resolve import resolve
    from promptfed.result_notes import listed, new_classes_line
    from promptfed.runs.partition_file import partition_table, shown_data
    from promptfed.tasks import TASKS

    chosen = resolve(options.config_from(flags, config, set_))
    task = TASKS[chosen.task].build(chosen)
    table = partition_table(task)
    if plot is not None:
        save(plot_partition(table), plot, bbox_inches="tight")
    if json:
        typer.echo(as_json.dumps({**table, "notes": list(task.notes)}, indent=2))
        return
    if quiet:
        for client in table["clients"]:
            counts = (str(sum(client[part])) for part in ("train", "val", "test"))
            typer.echo("\t".join([str(client["client"]), printable(client["name"]), *counts]))
        return
    rows = Table("client", "name", "train", "val", "test", "classes", title=f"{task.name}: {shown_data(chosen)}")
    for client in table["clients"]:
        counts_by_class = [
            f"{name} {count}" for name, count in zip(table["classes"], client["train"], strict=True) if count
        ]
        counts = (str(sum(client[part])) for part in ("train", "val", "test"))
        rows.add_row(
            str(client["client"]),
            client["name"],
            *counts,
            ", ".join(counts_by_class) + (" (one class)" if client["one_class"] else ""),
        )
    console = output()
    console.print(rows)
    test = f"test {table['examples']}"
    summary = f"{len(task.base_classes)} base classes ({len(task.base_test)} {test}), "
    summary += (
        f"{len(task.new_classes)} new classes ({len(task.new_test)} {test})" if task.new_classes else "none is new"
    )
    console.print(summary, highlight=False)
    if task.new_classes:
        console.print(new_classes_line(task.new_classes, len(task.new_classes)), highlight=False)
    if alone := [client["name"] for client in table["clients"] if client["one_class"]]:
        are = (
            "1 client holds one class, and is"
            if len(alone) == 1
            else f"{len(alone)} clients hold one class each, and are"
        )
        words = f"{are} left out of local accuracy: {listed(alone)}"
        console.print(words, highlight=False)
    for note in task.notes:
        console.print(f"note: {note}", highlight=False)
    if plot is not None:
        console.print(f"drawn to {plot}", highlight=False)
