"""`promptfed predict`: sort images, texts or questions with a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.commands.flags import Flags, with_flags
from promptfed.commands.opened import ASKED
from promptfed.commands.predictions import Form, print_predictions
from promptfed.errors import ConfigError, FormatError
from promptfed.printable import printable
from promptfed.readers.text import filled_lines


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("predict")(predict)


@with_flags((*ASKED, "max_calls", "max_usd"))
def predict(
    flags: Flags,
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, or hf:USER/NAME.", metavar="BUNDLE")],
    examples: Annotated[
        list[str] | None,
        typer.Argument(
            help="Image files, folders, patterns, or a CSV with a column path; or texts, if that is what it sorts.",
            metavar="EXAMPLE...",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            help="A file with one example (a text, an image's path) a line, or a CSV with a column text or path.",
        ),
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
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="Least probability of the best class; below it: none of these.", metavar="P"),
    ] = None,
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
    cache: Annotated[bool, typer.Option("--cache", help="Keep the images' features on disk, for later runs.")] = False,
    keep_features: Annotated[bool, typer.Option("--keep-features", help="As --cache.", hidden=True)] = False,
    trust_address: options.TrustAddress = False,
    quiet: Annotated[bool, options.quiet_option("the best class of each example, one a line,")] = False,
    json: options.Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print a table for a spreadsheet, one row an example.")] = False,
) -> None:
    """Classify image files or texts with an exported prompt.

    Of a folder, every image in it is taken. Files that cannot be read are named at the end, and the exit code is 2.
    Nothing about the images is kept on disk unless --cache is given. A bundle for a black box asks its oracle; answers
    that it gave before are not asked for, or paid for, again.

    \b
    Examples:
      promptfed predict bundle photo.jpg
      promptfed predict bundle folder-of-photos --csv > classes.csv
      promptfed predict bundle "photos/**/*.jpg" --threshold 0.6       else it says none of these
      promptfed predict bundle *.jpg --classes "cat,dog,red panda" --json
      promptfed predict bundle photos.csv                              a CSV with a column path
      promptfed predict bundle "Where is my parcel?" "I want my money back."
      promptfed predict bundle --file texts.txt --top 1
      promptfed predict bundle "Where is it?" --embeddings gemma-folder     of a run with --oracle embeds
    """
    from promptfed.export.image_files import ImageFiles, find_image_files
    from promptfed.export.loaded import load_bundle
    from promptfed.tasks.sources.class_names import parse_class_list

    if csv and (json or quiet):
        raise ConfigError(
            f"--csv and {'--json' if json else '--quiet'} each say what is printed: leave one of them out"
        )
    if not examples and file is None:
        raise ConfigError("nothing to classify: give image files or texts, or --file FILE with one a line")
    names = parse_class_list(classes) if classes is not None else None
    changed = {**flags, "embeddings": None if embeddings is None else str(embeddings)}
    with load_bundle(
        bundle,
        backbone=backbone,
        oracle=oracle,
        device=device,
        keep_features=cache or keep_features,
        trust_address=trust_address,
        **changed,
    ) as loaded:
        kind = loaded.example_kind
        inputs = [*_given(examples or [], kind), *_lines(file, kind)]
        if not inputs:
            raise ConfigError(f"nothing to classify: {printable(file)} holds no example")
        files = find_image_files(inputs) if kind == "path" else ImageFiles(())
        predictions = loaded.predict(files.readable if kind == "path" else inputs, names, top, threshold)
    for note in () if quiet else files.notes:
        typer.echo(printable(f"note: {note}"), err=True)
    form: Form = "csv" if csv else "json" if json else "best" if quiet else "lines"
    print_predictions(predictions, kind, files.problems, form, threshold)
    for problem in files.problems.values():
        typer.echo(f"error: {printable(problem)}", err=True)
    if files.problems or not all(prediction.ranked for prediction in predictions):
        raise typer.Exit(2)


def _given(examples: list[str], kind: str) -> list[str]:
    """Return the examples of the command line; texts in a CSV file are taken out of it."""
    from promptfed.export.example_tables import is_table, table_column

    if kind == "path":
        return examples
    return [text for name in examples for text in (table_column(Path(name), kind) if is_table(name) else [name])]


def _lines(file: Path | None, kind: str) -> list[str]:
    """Return the examples in ``file``: a column of a CSV, or the lines that are not empty.

    Raises ConfigError if it cannot be read.
    """
    from promptfed.export.example_tables import is_table, table_column

    if file is None:
        return []
    if is_table(str(file)):
        return table_column(file, kind)
    try:
        return filled_lines(file)
    except OSError as error:
        raise ConfigError(f"cannot read --file '{printable(file)}': {error.strerror or error}") from error
    except FormatError as error:
        raise ConfigError(f"cannot read --file: {error}") from error
