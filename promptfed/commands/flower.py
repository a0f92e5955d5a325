"""`promptfed flower init`: a run as a Flower app, for real sites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.commands.flags import Flags, run_flags, with_flags
from promptfed.errors import ConfigError
from promptfed.printable import printable

ONE_MACHINE = ("engine", "actors", "ray_address", "client_batch", "dropout")
"""Options that mean nothing where the sites are real."""


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    group = typer.Typer(
        name="flower", help="Run over real sites, with Flower (promptfed[flower]).", rich_markup_mode=None
    )
    group.command("init")(init)
    # A single command would otherwise take the place of its group.
    group.callback()(_group)
    app.add_typer(group)


def _group() -> None:
    """Run over real sites, with Flower (pip install 'promptfed[flower]')."""


@with_flags(
    run_flags(without=(*run_flags("oracle"), *ONE_MACHINE)),
    only_common=True,
    texts={
        "data": "sites: every site brings its own folder. Else, as of train: all nodes deal it out alike [icons].",
        "clients": "Number of sites [8, or one a domain].",
    },
)
def init(
    flags: Flags,
    folder: Annotated[Path, typer.Argument(help="New folder for the app.", metavar="DIR")],
    config: options.ConfigFile = None,
    set_: options.Set = None,
    classes: Annotated[
        str, typer.Option("--classes", help="Agreed class names, with commas or as @FILE [all that the sites have].")
    ] = "",
    min_sites: Annotated[int, typer.Option("--min-sites", help="Sites that a round needs.", min=1)] = 1,
    run_dir: Annotated[
        Path | None, typer.Option("--run", help="Where the server keeps the run [DIR-run].", metavar="DIR")
    ] = None,
    publisher: Annotated[str, typer.Option("--publisher", help="Who publishes the app, for Flower.")] = "promptfed",
    quiet: Annotated[bool, options.quiet_option("the app's folder")] = False,
    json: options.Json = False,
) -> None:
    """Write a small Flower app for a run, and a README with the commands for the server and its sites.

    \b
    Examples:
      promptfed flower init hospitals --data sites --clients 3 --backbone lit --method fedper
      promptfed flower init trial --clients 8                 every node plays a client of the bundled data

    Only zero-shot runs beside the method unless --baselines says otherwise: over a network each round takes seconds.
    """
    import json as as_json

    from promptfed.config import RunConfig, build_config
    from promptfed.deployment.scaffold import write_app
    from promptfed.deployment.server import checked
    from promptfed.deployment.site_examples import OWN_DATA
    from promptfed.tasks import TASKS
    from promptfed.tasks.sources import check_source_name
    from promptfed.tasks.sources.class_names import plain_class_list

    chosen = options.config_from(flags, config, set_)
    frugal = {"baselines": ("zero_shot",), "validate_every": 5}
    usual = {name: value for name, value in frugal.items() if name not in chosen.model_fields_set}
    chosen_options = {name: getattr(chosen, name) for name in chosen.model_fields_set}
    resolved: RunConfig = checked(build_config(chosen_options, usual))
    if resolved.data != OWN_DATA and TASKS[resolved.task].object_kind == "images":
        check_source_name(resolved.data)
    if resolved.clients is not None and min_sites > resolved.clients:
        raise ConfigError(f"--min-sites {min_sites} is more than the {resolved.clients} sites that there are")
    place = (run_dir or folder.with_name(f"{folder.name}-run")).expanduser().resolve()
    names = ",".join(plain_class_list(classes))
    write_app(folder, resolved, run_dir=place, classes=names, min_sites=min_sites, publisher=publisher)
    if json:
        typer.echo(as_json.dumps({"app": str(folder), "run": str(place)}, indent=2))
        return
    if quiet:
        typer.echo(printable(folder))
        return
    typer.echo(
        printable(f"wrote the app to {folder}; {folder / 'README.md'} has the commands for the server and each site")
    )
