"""`promptfed import`: prompts that other programs trained, as runs of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.commands.flags import Flags, run_flags, with_flags
from promptfed.printable import printable

FLAGS = ("backbone", *run_flags("task", without=("hold_out_classes",)), "device", "precision")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    group = typer.Typer(no_args_is_help=True, help="Take over prompts trained elsewhere.", rich_markup_mode=None)
    group.command("fedtpg")(fedtpg)
    app.add_typer(group, name="import")


@with_flags(FLAGS)
def fedtpg(
    flags: Flags,
    checkpoint: Annotated[
        Path, typer.Argument(help="A released file, prompt_learner/model.pth.tar-500.", metavar="CKPT")
    ],
    run: Annotated[
        Path | None, typer.Option("--run", help="Folder for the run [a fresh one under runs/].", metavar="DIR")
    ] = None,
    config: options.ConfigFile = None,
    set_: options.Set = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Make a run of a prompt generator that FedTPG's own code trained; eval, export and predict work on it.

    The generator's size is read from the file; only --set method.prompt_depth (1) and method.heads (4) cannot be.
    The file is opened with weights-only loading. The task says whose classes and test examples it is tried on.

    \b
    Examples:
      promptfed import fedtpg model.pth.tar-500 --backbone open_clip:ViT-B-16/openai
      promptfed import fedtpg model.pth.tar-500 --backbone open_clip:ViT-B-16/openai --data folder:photos --run runs/tpg
      promptfed eval runs/tpg
    """
    import json as as_json

    from promptfed.config import build_config, parse_settings, read_yaml, validate
    from promptfed.import_prompt import import_run
    from promptfed.methods.fedtpg import FedTPGConfig
    from promptfed.methods.fedtpg.checkpoint import read_released
    from promptfed.resolve import resolve

    released = read_released(checkpoint)
    file = read_yaml(config) if config else {}
    wished = build_config(
        {"rounds": released.rounds}, file, options.given({**flags, "method": "fedtpg"}), parse_settings(set_ or [])
    )
    depth = validate(FedTPGConfig, wished.method_options, "method option").prompt_depth
    decided = {"method": "fedtpg", "method_options": released.options(depth, wished.method_options)}
    chosen = resolve(wished.model_copy(update=decided))
    folder = import_run(chosen, released.state, checkpoint, released.check, run)
    typer.echo(as_json.dumps({"run": str(folder.path)}, indent=2) if json else printable(folder.path))
