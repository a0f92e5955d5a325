"""`promptfed library`: prompts that runs ended with, kept in a file for those who come later."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.commands.opened import open_run
from promptfed.printable import printable

File = Annotated[Path, typer.Argument(help="A library: a file of JSON lines.", metavar="LIBRARY")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    library = typer.Typer(
        help="Text prompts of many runs in a file, from which a newcomer picks.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    library.command("add")(add)
    library.command("list")(list_)
    app.add_typer(library, name="library")


def add(
    file: File,
    run: Annotated[Path, typer.Argument(help="The folder of a finished run with a black box.", metavar="RUN")],
    about: Annotated[str, typer.Option("--about", help="What the prompt is for, in a sentence.", metavar="SENTENCE")],
    quiet: Annotated[bool, options.quiet_option("the prompt")] = False,
    json: options.Json = False,
) -> None:
    """Add the text prompt that a run's clients share, with how many clients and examples are behind it.

    Nothing of a client's own goes in. The same prompt for the same task and model is one entry whose support adds up; a
    run counts once. Soft prompts, prompts of several lines, and such with orders to agents, addresses or code are
    refused.

    \\b
    Examples:
      promptfed library add prompts.jsonl runs/NAME --about "Sort messages to customer service."
    """
    import json as as_json

    from promptfed.export.finished import FinishedRun
    from promptfed.export.library import entry_of
    from promptfed.files.locks import patient_lock
    from promptfed.records.library import read_library, with_entry, write_library

    entry = entry_of(FinishedRun.load(open_run(run, is_asked=False)), about)
    with patient_lock(file.with_name(f".{file.name}.lock"), f"library {printable(file)}"):
        entries = read_library(file)[0] if file.exists() else []
        merged = with_entry(entries, entry)
        write_library(file, merged)
    if json:
        typer.echo(as_json.dumps({"library": str(file), "prompts": len(merged), "added": vars(entry)}, indent=2))
    elif quiet:
        typer.echo(printable(entry.prompt, 2000))
    else:
        support = f"{entry.clients} clients, {entry.examples} examples"
        typer.echo(f"{printable(file)} holds {len(merged)} prompts; this one: '{printable(entry.prompt)}' ({support})")


def list_(
    file: File,
    sentence: Annotated[
        str, typer.Argument(help="Your task in a sentence: the nearest come first.", metavar="[SENTENCE]")
    ] = "",
    oracle: Annotated[
        str | None, typer.Option("--oracle", help="Prompts found with this black box only.", metavar="NAME")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Prompts that are shown.", metavar="N")] = 20,
    quiet: Annotated[
        bool, options.quiet_option("the prompts, one a line: a pool for method.prompts=file:PATH,")
    ] = False,
    json: options.Json = False,
) -> None:
    """Show the prompts of a library, those for the nearest tasks first, then those with the most support.

    \\b
    Examples:
      promptfed library list prompts.jsonl "What does this customer want?"
      promptfed library list prompts.jsonl "What does this customer want?" --top 30 -q > pool.txt
      promptfed train --task blackbox-text --data csv:mine.csv --clients 1 --rounds 1 --method fedlogic \\
          --set method.prompts=file:pool.txt       picks the best of them by your own examples
    """
    import json as as_json

    from promptfed.export.library import nearest
    from promptfed.records.library import read_library

    entries, refused = read_library(file)
    if refused:
        typer.echo(f"left out of {printable(file)}: {len(refused)} lines ({printable(refused[0])})", err=True)
    chosen = nearest(entries, sentence, oracle)[:top]
    if json:
        rows = [{**vars(entry), "likeness": likeness} for entry, likeness in chosen]
        typer.echo(as_json.dumps(rows, indent=2))
        return
    if quiet:
        for prompt in dict.fromkeys(entry.prompt for entry, _ in chosen):
            typer.echo(printable(prompt, 2000))
        return
    for entry, likeness in chosen:
        near = f"{likeness:.2f}  " if likeness is not None else ""
        support = f"{entry.clients} clients, {entry.examples} examples, {entry.model}"
        typer.echo(f"{near}{printable(entry.prompt, 80)}  ({printable(entry.task, 60)} {printable(support)})")
    if not chosen:
        typer.echo(f"{printable(file)} holds no prompt" + (f" of oracle {printable(oracle)}" if oracle else ""))
