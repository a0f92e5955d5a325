"""`promptfed push` and `promptfed pull`: give a bundle away, take one in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from promptfed.commands import options
from promptfed.errors import ConfigError
from promptfed.printable import printable

if TYPE_CHECKING:
    from promptfed.export.bundle import Bundle

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("push")(push)
    app.command("pull")(pull)


def push(
    source: Annotated[Path, typer.Argument(help="A bundle's folder, or a run's.", metavar="BUNDLE|RUN")],
    destination: Annotated[str, typer.Argument(help="hf:USER/NAME, or a folder.", metavar="DEST")],
    client: Annotated[int | None, typer.Option("--client", help="Of a run: whose prompt.", metavar="K")] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Of a run: what all clients share, and nothing of a client's own.")
    ] = False,
    license_: Annotated[
        str, typer.Option("--license", help="Under which it may be used, such as apache-2.0.", metavar="ID")
    ] = "other",
    personal: Annotated[bool, typer.Option("--personal", help="Give a client's own prompt away too.")] = False,
    public: Annotated[bool, typer.Option("--public", help="A new repository is for everybody [private].")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and send nothing.")] = False,
    overwrite: Overwrite = False,
    quiet: Annotated[bool, options.quiet_option("where it is")] = False,
    json: options.Json = False,
) -> None:
    """Give a bundle away: to a repository of the Hugging Face hub, or to a folder, with a model card.

    Only a bundle's own files go: safetensors, JSON, the text of a prompt, and the card. A client's own prompt needs
    --personal. A new repository is private unless --public is given. The hub is asked with the token that `hf auth
    login` keeps.

    \\b
    Examples:
      promptfed push bundle hf:me/ward-prompt --dry-run      what would go
      promptfed push bundle hf:me/ward-prompt --license apache-2.0
      promptfed push runs/NAME shelf/ward-prompt --shared    what all share, into a folder
    """
    import json as as_json

    from promptfed.export.hub import HubPlace
    from promptfed.export.share import parcel_of
    from promptfed.export.share import push as push_parcel

    parcel = parcel_of(_bundle(source, client, shared), destination, license_, personal=personal)
    kind = "repository" if isinstance(parcel.place, HubPlace) else "folder"
    sizes = {name: len(content) for name, content in parcel.files.items()}
    where = None if dry_run else push_parcel(parcel, public=public, overwrite=overwrite)
    if json:
        facts = {
            "place": str(parcel.place),
            "sent": not dry_run,
            "address": where,
            "files": sizes,
            "notes": parcel.notes,
        }
        typer.echo(as_json.dumps(facts, indent=2))
        return
    if quiet:
        typer.echo(printable(where or parcel.place))
        return
    verb = "would go" if dry_run else "went"
    typer.echo(f"{verb} to {kind} {printable(where or parcel.place)}:")
    for name, size in sizes.items():
        typer.echo(f"  {name}  {size:,} bytes")
    for note in parcel.notes:
        typer.echo(f"note: {note}", err=True)


def pull(
    source: Annotated[str, typer.Argument(help="hf:USER/NAME, hf:USER/NAME@REVISION, or a folder.", metavar="SRC")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write [NAME].", metavar="DIR")] = None,
    overwrite: Overwrite = False,
    quiet: Annotated[bool, options.quiet_option("the folder")] = False,
    json: options.Json = False,
) -> None:
    """Take in a bundle from a repository of the Hugging Face hub, or from a folder.

    Names, sizes and checksums of all files are compared first; a place that holds anything but a bundle is refused. A
    bundle from somebody else is data: nothing in it is run.

    \\b
    Examples:
      promptfed pull hf:me/ward-prompt
      promptfed pull hf:me/ward-prompt@v1 --out ward
    """
    import json as as_json

    from promptfed.export.share import pull as pull_bundle

    folder = pull_bundle(source, out, overwrite=overwrite)
    if json:
        typer.echo(as_json.dumps({"folder": str(folder)}, indent=2))
    elif quiet:
        typer.echo(printable(folder))
    else:
        typer.echo(f"bundle in {printable(folder)}; promptfed predict {printable(folder)} asks it")


def _bundle(source: Path, client: int | None, shared: bool) -> Bundle:
    """Return the bundle in ``source``, or that of a client of the run in it."""
    from promptfed.commands.opened import open_run
    from promptfed.export.bundle import read_bundle
    from promptfed.export.finished import FinishedRun
    from promptfed.runs.directory import is_run

    if not is_run(source):
        if client is not None or shared:
            raise ConfigError("--client and --shared choose a prompt of a run, and this is none: leave them out")
        return read_bundle(source)
    if not shared and client is None:
        raise ConfigError("a run has many prompts: say --shared for what all share, or --client K")
    finished = FinishedRun.load(open_run(source, is_asked=False))
    return finished.bundle(client if client is not None else min(finished.names), shared_only=shared)
