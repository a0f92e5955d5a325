"""`promptfed export`: write a client's prompt as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.commands.flags import Flags, with_flags
from promptfed.commands.opened import open_run
from promptfed.errors import ConfigError
from promptfed.printable import printable


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("export")(export)


@with_flags(("base_url",))
def export(
    flags: Flags,
    run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")],
    client: Annotated[int | None, typer.Option("--client", help="Whose prompt.", metavar="K")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every client's, each in a folder of its own.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder to write [RUN/bundles/client-K].", metavar="DIR"),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="bundle; peft: an adapter of a language model that PEFT loads; onnx: an image classifier; texts: the "
            "synthetic texts of private_evolution or fedpit.",
            metavar="FORMAT",
        ),
    ] = "bundle",
    merged: Annotated[
        bool,
        typer.Option("--merged", help="The whole language model, low-rank changes (LoRA) added to its weights."),
    ] = False,
    shared: Annotated[
        bool, typer.Option("--shared", help="The shared prompt alone, without anything of the client's own.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle or adapter that is there.")] = False,
    backbone: options.SameBackbone = None,
    quiet: Annotated[bool, options.quiet_option("the bundles' folders")] = False,
    json: options.Json = False,
) -> None:
    """Write a client's prompt as a self-contained bundle, usable without promptfed too.

    For a backbone it holds the class text features as well, which plain numpy and open_clip can use; for a black box
    the text (prompt.txt) or the vectors that are sent, and no call is made that costs money; for a language model an
    adapter of PEFT beside it, which --format peft writes alone. --format onnx writes an image classifier that needs
    onnxruntime alone. If promptfed personalize has run, it is the client's personalised prompt, with the alpha that was
    chosen and why.

    \b
    Examples:
      promptfed export runs/NAME --client 0
      promptfed export runs/NAME --client 3 --out hospital-3
      promptfed export runs/NAME --all --out bundles
      promptfed export runs/NAME --client 0 --shared
      promptfed export runs/NAME --client 3 --format peft --out adapter
      promptfed export runs/NAME --client 3 --merged --out merged-model
      promptfed export runs/NAME --client 0 --format onnx --out classifier
    """
    import json as as_json

    from promptfed.export.finished import FinishedRun
    from promptfed.export.formats import export_format, write_export, write_exports
    from promptfed.export.origin import same_prompts

    form = export_format(format_, merged)
    if all_ == (client is not None):
        why = "; --shared needs it too, for the classes that the bundle names" if shared and not all_ else ""
        raise ConfigError(f"say whose prompt to export, either --client K or --all{why}")
    folder = open_run(run, backbone=backbone, base_url=flags["base_url"], is_asked=False)
    finished = FinishedRun.load(folder)
    if client is not None:
        folders = {client: write_export(finished, client, form, out, shared, overwrite)}
    else:
        folders = write_exports(finished, sorted(finished.names), form, out, shared, overwrite)
    written = {str(number): str(path) for number, path in folders.items()}
    if json:
        typer.echo(as_json.dumps(written, indent=2))
        return
    for path in written.values():
        typer.echo(printable(path))
    if quiet:
        return
    for note in same_prompts({number: finished.origin(number, shared_only=shared) for number in folders}):
        typer.echo(f"note: {note}", err=True)
