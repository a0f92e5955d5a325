"""`promptfed predict`: sort images, texts or questions with a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptfed.commands import options
from promptfed.commands.flags import Flags, with_flags
from promptfed.commands.opened import ASKED
from promptfed.errors import ConfigError, FormatError
from promptfed.printable import LONGEST, printable
from promptfed.readers.text import filled_lines

if TYPE_CHECKING:
    from promptfed.export.predict import Prediction


NOT_ANSWERED = "not answered"
"""The text for an example that a black box refused, or whose answer names no class."""


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("predict")(predict)


@with_flags((*ASKED, "max_calls", "max_usd"))
def predict(
    flags: Flags,
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.", metavar="BUNDLE")],
    examples: Annotated[
        list[str] | None, typer.Argument(help="Image files, or texts if that is what it sorts.", metavar="EXAMPLE...")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A file with one example (a text, an image's path) a line.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            help="Class names with commas, or @FILE with one a line, also unseen ones [the bundle's].",
            metavar="A,B|@FILE",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", help="How many classes to name.", metavar="N")] = 3,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Load this backbone instead of the one named in the bundle.")
    ] = None,
    oracle: Annotated[
        str | None, typer.Option("--oracle", help="The same black box under another name, such as local:OTHER-PATH.")
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            "--embeddings",
            help="Of oracle embeds: a folder of the same model, with its tokenizer and token embeddings.",
            metavar="DIR",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or auto.")] = "cpu",
    keep_features: Annotated[
        bool, typer.Option("--keep-features", help="Keep the images' features in the cache, for other runs on them.")
    ] = False,
    trust_address: options.TrustAddress = False,
    quiet: Annotated[bool, options.quiet_option("the best class of each example, one a line,")] = False,
    json: options.Json = False,
) -> None:
    """Classify image files or texts with an exported prompt.

    Of a folder, every image in it is taken. Files that cannot be read are named at the end, and the exit code is 2.
    Nothing about the images is kept on disk unless --keep-features is given. A bundle for a black box asks its oracle;
    answers that it gave before are not asked for, or paid for, again.

    \b
    Examples:
      promptfed predict bundle photo.jpg
      promptfed predict bundle folder-of-photos
      promptfed predict bundle *.jpg --classes "cat,dog,red panda" --json
      promptfed predict bundle "Where is my parcel?" "I want my money back."
      promptfed predict bundle --file texts.txt --top 1
      promptfed predict bundle "Where is it?" --embeddings gemma-folder     of a run with --oracle embeds
    """
    from promptfed.export.image_files import ImageFiles, find_image_files
    from promptfed.export.loaded import load_bundle
    from promptfed.tasks.sources.class_names import parse_class_list

    inputs = [*(examples or []), *_lines(file)]
    if not inputs:
        raise ConfigError("nothing to classify: give image files or texts, or --file FILE with one a line")
    names = parse_class_list(classes) if classes is not None else None
    changed = {**flags, "embeddings": None if embeddings is None else str(embeddings)}
    with load_bundle(
        bundle,
        backbone=backbone,
        oracle=oracle,
        device=device,
        keep_features=keep_features,
        trust_address=trust_address,
        **changed,
    ) as loaded:
        is_image = loaded.example_kind == "path"
        files = find_image_files(inputs) if is_image else ImageFiles(())
        predictions = loaded.predict(files.readable if is_image else inputs, names, top)
    for note in () if quiet else files.notes:
        typer.echo(printable(f"note: {note}"), err=True)
    _print_predictions(predictions, loaded.example_kind, files.problems, quiet, json)
    for problem in files.problems.values():
        typer.echo(f"error: {printable(problem)}", err=True)
    if files.problems or not all(prediction.ranked for prediction in predictions):
        raise typer.Exit(2)


def _print_predictions(
    predictions: Sequence[Prediction], kind: str, problems: Mapping[Path, str], quiet: bool, json: bool
) -> None:
    """Print one line, or one JSON object, for each example. ``kind`` is the JSON key of an example."""
    import json as as_json

    if json:
        rows: list[dict[str, Any]] = [
            {kind: str(p.example), "ranked": [{"class": c, "probability": v} for c, v in p.ranked]}
            if p.ranked
            else {kind: str(p.example), "error": NOT_ANSWERED}
            for p in predictions
        ]
        rows += [{kind: str(path), "error": problem} for path, problem in problems.items()]
        typer.echo(as_json.dumps(rows, indent=2))
        return
    for prediction in predictions:
        if quiet:
            typer.echo(printable(prediction.ranked[0][0]) if prediction.ranked else NOT_ANSWERED)
            continue
        shares = (
            printable(c) if kind == "question" else f"{printable(c, LONGEST)} {100 * v:.1f} %"
            for c, v in prediction.ranked
        )
        typer.echo(f"{printable(prediction.example)}: {'  '.join(shares) or NOT_ANSWERED}")


def _lines(file: Path | None) -> list[str]:
    """Return the lines of ``file`` that are not empty. Raise ConfigError if it cannot be read."""
    if file is None:
        return []
    try:
        return filled_lines(file)
    except OSError as error:
        raise ConfigError(f"cannot read --file '{printable(file)}': {error.strerror or error}") from error
    except FormatError as error:
        raise ConfigError(f"cannot read --file: {error}") from error
