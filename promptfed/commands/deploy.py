"""`promptfed eval | export | predict`: use what a run has learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptfed.commands import options
from promptfed.commands.flags import Flags, with_flags
from promptfed.commands.opened import ASKED, open_run
from promptfed.errors import ConfigError, FormatError
from promptfed.printable import LONGEST, printable
from promptfed.readers.text import filled_lines

if TYPE_CHECKING:
    from promptfed.export.predict import Prediction


NOT_ANSWERED = "not answered"
"""What is shown for an example that a black box refused, or to which it said nothing of use."""


def add_to(app: typer.Typer) -> None:
    app.command("eval")(eval_)
    app.command("export")(export)
    app.command("predict")(predict)


@with_flags(("data_root", "partition", *ASKED))
def eval_(
    flags: Flags,
    run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="Another data set; may be given several times.", metavar="SOURCE"),
    ] = None,
    measures: Annotated[
        str | None,
        typer.Option("--measures", help="Figures beside accuracy, with commas: promptfed list measures.", metavar="M"),
    ] = None,
    backbone: options.SameBackbone = None,
    trust_address: options.TrustAddress = False,
    json: options.Json = False,
) -> None:
    """Score a run's prompts on the test images again, and on other data sets'.

    On the run's own data each client has its own prompt. Another data set is dealt out by the run's rules to as many
    clients as fit it: nobody there took part, so all have the run's shared prompt, which meets their classes as new
    names. Zero-shot stands beside it, its template chosen on the validation images of the same data.

    \b
    Examples:
      promptfed eval runs/NAME
      promptfed eval runs/NAME --measures macro_f1,top_k:3,nll
      promptfed eval runs/NAME --data folder:other-photos
      promptfed eval runs/NAME --data folder:photos --data folder:sketches --json
      promptfed eval runs/NAME --data tsv:other-texts.tsv          of a black-box run
    """
    import json as as_json

    from promptfed.cross_dataset import evaluate_on
    from promptfed.export.finished import FinishedRun
    from promptfed.report.consoles import output
    from promptfed.report.live import live_progress
    from promptfed.report.measure_table import measure_table
    from promptfed.report.tables import cross_data_table, domains_table, results_table

    asked = {name: flags[name] for name in ASKED}
    folder = open_run(run, backbone=backbone, trust_address=trust_address, **asked)
    finished = FinishedRun.load(folder)
    changed = options.given({name: flags[name] for name in ("data_root", "partition")})
    with live_progress(not json) as progress:
        rows = evaluate_on(finished, data or (), changed, progress, measures)
    if json:
        typer.echo(as_json.dumps(rows, indent=2))
        return
    console = output()
    if len(rows) > 1:
        console.print(cross_data_table(rows))
    for name, figures in rows.items():
        if len(rows) == 1:
            console.print(results_table(figures))
        if figures["method"]["domains"]:
            console.print(f"by domain of {name}:", highlight=False, markup=False)
            console.print(domains_table(figures))
        if figures.get("measures"):
            console.print(f"other measures of {name}:", highlight=False, markup=False)
            console.print(measure_table(figures))


@with_flags(("base_url",))
def export(
    flags: Flags,
    run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")],
    client: Annotated[int | None, typer.Option("--client", help="Whose prompt.", metavar="K")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every client's, each in a folder of its own.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the bundle [RUN/bundles/client-K].", metavar="DIR")
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="The shared prompt alone, without anything of the client's own.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    backbone: options.SameBackbone = None,
    json: options.Json = False,
) -> None:
    """Write a client's prompt as a self-contained bundle, usable without promptfed too.

    For a backbone it holds the class text features as well, which plain numpy and open_clip can use; for a black box
    the text (prompt.txt) or the vectors that are sent, and no call is made that costs money. If promptfed personalize
    has run, it is the client's personalised prompt, with the alpha that was chosen and why.

    \b
    Examples:
      promptfed export runs/NAME --client 0
      promptfed export runs/NAME --client 3 --out hospital-3
      promptfed export runs/NAME --all --out bundles
      promptfed export runs/NAME --client 0 --shared
    """
    import json as as_json

    from promptfed.export.bundle import write_bundle
    from promptfed.export.finished import FinishedRun
    from promptfed.export.origin import same_prompts

    if all_ == (client is not None):
        raise ConfigError("say whose prompt to export: either --client K or --all")
    folder = open_run(run, backbone=backbone, base_url=flags["base_url"], is_asked=False)
    finished = FinishedRun.load(folder)
    if client is not None:
        folders = {client: out or run / "bundles" / f"client-{client}"}
    else:
        folders = {each: (out or run / "bundles") / f"client-{each}" for each in sorted(finished.names)}
    bundles = {k: finished.bundle(k, shared_only=shared) for k in folders}
    written = {str(k): str(write_bundle(f, bundles[k], overwrite=overwrite)) for k, f in folders.items()}
    if json:
        typer.echo(as_json.dumps(written, indent=2))
        return
    for path in written.values():
        typer.echo(printable(path))
    for note in same_prompts({number: bundle.meta.origin for number, bundle in bundles.items()}):
        typer.echo(f"note: {note}", err=True)


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
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or auto.")] = "cpu",
    keep_features: Annotated[
        bool, typer.Option("--keep-features", help="Keep the images' features in the cache, for other runs on them.")
    ] = False,
    trust_address: options.TrustAddress = False,
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

    wanted = [*(examples or []), *_lines(file)]
    if not wanted:
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
        files = find_image_files(wanted) if is_image else ImageFiles(())
        predictions = loaded.predict(files.readable if is_image else wanted, names, top)
    for note in files.notes:
        typer.echo(printable(f"note: {note}"), err=True)
    _print_predictions(predictions, loaded.example_kind, files.problems, json)
    for problem in files.problems.values():
        typer.echo(f"error: {printable(problem)}", err=True)
    if files.problems or not all(prediction.ranked for prediction in predictions):
        raise typer.Exit(2)


def _print_predictions(predictions: Sequence[Prediction], kind: str, problems: Mapping[Path, str], json: bool) -> None:
    """Print one line, or one JSON object, for each example; ``kind`` says what an example is called in JSON."""
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
        shares = (
            printable(c) if kind == "question" else f"{printable(c, LONGEST)} {100 * v:.1f} %"
            for c, v in prediction.ranked
        )
        typer.echo(f"{printable(prediction.example)}: {'  '.join(shares) or NOT_ANSWERED}")


def _lines(file: Path | None) -> list[str]:
    """The lines of ``file`` that are not empty. Raises ConfigError if it cannot be read."""
    if file is None:
        return []
    try:
        return filled_lines(file)
    except OSError as error:
        raise ConfigError(f"cannot read --file '{printable(file)}': {error.strerror or error}") from error
    except FormatError as error:
        raise ConfigError(f"cannot read --file: {error}") from error
