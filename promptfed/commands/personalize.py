"""`promptfed personalize | onboard`: prompts for single clients, those of a run and new ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.commands.flags import Flags, with_flags
from promptfed.commands.opened import ASKED, open_run
from promptfed.oracle_options import OracleOptions
from promptfed.personalize.options import ALPHAS, OnboardOptions, PersonalizeOptions, parse_alphas
from promptfed.printable import printable

Interpolate = Annotated[
    str, typer.Option("--interpolate", help="Values of alpha to try on validation examples.", metavar="A,B,...")
]
TRAINING = ("method", "lr", "epochs", "l2_to_global", "space", *ASKED)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("personalize")(personalize)
    app.command("onboard")(onboard)


@with_flags(TRAINING, models=(PersonalizeOptions, OracleOptions))
def personalize(
    flags: Flags,
    run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")],
    interpolate: Interpolate = ALPHAS,
    backbone: options.SameBackbone = None,
    trust_address: options.TrustAddress = False,
    quiet: Annotated[bool, options.quiet_option("the folder of the personalised prompts")] = False,
    json: options.Json = False,
) -> None:
    """Fine-tune a run's shared prompt on every client, and mix the two as each client's validation examples say.

    A client deploys (1 - alpha) shared + alpha own. Every alpha is scored; each client picks its own. A method with
    personal prompts (promptfolio, fedotp, ...) is not trained on: its two prompts are mixed. Writes RUN/personalized;
    promptfed export then exports the personalised prompts. After Ctrl-C the same command goes on.

    \b
    Examples:
      promptfed personalize runs/NAME
      promptfed personalize runs/NAME --lr 0.002 --epochs 30 --l2-to-global 0.1
      promptfed personalize runs/NAME --interpolate 0,0.5,1 --space features
    """
    import json as as_json

    from promptfed.privacy.statement import FILE, promises
    from promptfed.report.consoles import output
    from promptfed.report.interpolation import curve_table
    from promptfed.run import Run
    from promptfed.runs.personalized import FOLDER

    oracle_flags = {name: flags.pop(name) for name in ASKED}
    folder = open_run(run, backbone=backbone, trust_address=trust_address, **oracle_flags)
    curve = Run(folder, words=str).personalize(alphas=interpolate, progress=not (quiet or json), **options.given(flags))
    report = folder.path / "report.html"
    if json:
        typer.echo(as_json.dumps(curve, indent=2))
        return
    if quiet:
        typer.echo(printable(folder.path / FOLDER))
        return
    out = output()
    out.print(curve_table(curve))
    for client in curve["clients"]:
        out.print(f"{client['name']}: alpha {client['alpha']:g} ({client['why']})", highlight=False)
    if (said := promises(folder.read_json(FILE), is_tuned=True)) and curve["training"]:
        out.print(f"note: {said[-1]}", highlight=False)
    out.print(f"prompts and curve: {folder.path / FOLDER}\nreport: {report}", highlight=False, soft_wrap=True)


@with_flags(("shots", "val_shots", *TRAINING), models=(OnboardOptions, OracleOptions))
def onboard(
    flags: Flags,
    run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")],
    data: Annotated[
        str,
        typer.Option(
            "--data", help="The newcomer's images (folder:PATH, its folders named as classes) or texts (tsv:PATH)."
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", help="The newcomer's name [that of its data].")] = None,
    interpolate: Interpolate = ALPHAS,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the bundle [RUN/bundles/NAME].", metavar="BUNDLE")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    backbone: options.SameBackbone = None,
    trust_address: options.TrustAddress = False,
    quiet: Annotated[bool, options.quiet_option("the bundle's folder")] = False,
    json: options.Json = False,
) -> None:
    """Give a client that never took part a prompt of its own: few shots, no federation.

    Its data name its classes, which may be the run's or new ones. It starts from what the run shares, trains on a
    few examples a class, and picks alpha on others; the rest is its test. Writes a bundle for promptfed predict.

    \b
    Examples:
      promptfed onboard runs/NAME --data folder:my-photos
      promptfed onboard runs/NAME --data folder:my-photos --name "hospital 9" --shots 4 --out hospital-9
    """
    import json as as_json

    from promptfed.config import validate
    from promptfed.export.bundle import write_bundle
    from promptfed.export.finished import FinishedRun
    from promptfed.named_model import named_model
    from promptfed.personalize.onboard import newcomer_source
    from promptfed.personalize.onboard import onboard as take_in
    from promptfed.report.consoles import output
    from promptfed.report.live import live_progress

    oracle_flags = {name: flags.pop(name) for name in ASKED}
    values = {**options.given(flags), "alphas": parse_alphas(interpolate)}
    chosen = validate(OnboardOptions, values, "onboard option")
    folder = open_run(run, backbone=backbone, trust_address=trust_address, **oracle_flags)
    instead = f"give the newcomer the shared prompt, promptfed export {run} --client 0 --shared, and other classes with"
    named_model(folder.config).check_gradients("onboard", f"{instead} promptfed predict --classes")
    newcomer = name or Path(data.partition(":")[2] or data).name or "newcomer"
    finished = FinishedRun.load(folder)
    source = newcomer_source(finished, data)
    with live_progress(not (quiet or json)) as progress:
        result = take_in(finished, source, newcomer, chosen, progress.features)
    target = out or folder.path / "bundles" / (re.sub(r"[^A-Za-z0-9._-]+", "-", newcomer).strip("-.") or "newcomer")
    written = write_bundle(target, result.bundle, overwrite=overwrite)
    if json:
        typer.echo(as_json.dumps({**result.figures(), "bundle": str(written)}, indent=2))
        return
    if quiet:
        typer.echo(printable(written))
        return
    console = output()
    for note in (*(f"skipped unreadable image {name}" for name in source.skipped), *source.notes):
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print(result.table())
    console.print(f"alpha {result.bundle.meta.alpha:g}: {result.bundle.meta.chosen}", highlight=False)
    if (origin := result.bundle.meta.origin) is not None and origin.privacy:
        console.print(f"note: {origin.privacy[-1]}", highlight=False, markup=False)
    console.print(f"bundle: {written}", highlight=False, soft_wrap=True)
