"""`promptfed import`: prompts that other programs trained, as runs of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.printable import printable


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Take over prompts trained elsewhere.", rich_markup_mode=None)
    group.command("fedtpg")(fedtpg)
    app.add_typer(group, name="import")


def fedtpg(
    checkpoint: Annotated[
        Path, typer.Argument(help="A released file, prompt_learner/model.pth.tar-500.", metavar="CKPT")
    ],
    backbone: options.Backbone = None,
    task: options.Task = None,
    data: options.Data = None,
    data_root: options.DataRoot = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="Folder for the run [a fresh one under runs/].", metavar="DIR")
    ] = None,
    clients: options.Clients = None,
    shots: options.Shots = None,
    partition: options.Partition = None,
    alpha: options.Alpha = None,
    partition_seed: options.PartitionSeed = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda or auto [cpu].")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of the frozen model [float32]: float32, bfloat16, float16.")
    ] = None,
    strict: options.Strict = None,
    config: options.ConfigFile = None,
    set_: options.Set = None,
) -> None:
    """Make a run of a prompt generator that FedTPG's own code trained; eval, export and predict work on it.

    The generator's size is read from the file; only --set method.prompt_depth (1) and method.heads (4) cannot be.
    The file is opened with weights-only loading. The task says whose classes and test images it is tried on.

    \b
    Examples:
      promptfed import fedtpg model.pth.tar-500 --backbone open_clip:ViT-B-16/openai
      promptfed import fedtpg model.pth.tar-500 --backbone open_clip:ViT-B-16/openai --data folder:photos --run runs/tpg
      promptfed eval runs/tpg
    """
    from promptfed.config import build_config, parse_settings, read_yaml, validate
    from promptfed.experiment import resolve
    from promptfed.import_prompt import import_run
    from promptfed.methods.fedtpg import FedTPGConfig
    from promptfed.methods.fedtpg.checkpoint import read_released

    flags = {
        "backbone": backbone, "task": task, "data": data, "data_root": data_root, "clients": clients, "shots": shots,
        "partition": partition, "alpha": alpha, "partition_seed": partition_seed, "device": device,
        "precision": precision, "strict": strict, "method": "fedtpg",
    }  # fmt: skip
    released = read_released(checkpoint)
    file = read_yaml(config) if config else {}
    wished = build_config({"rounds": released.rounds}, file, options.given(flags), parse_settings(set_ or []))
    depth = validate(FedTPGConfig, wished.method_options, "method option").prompt_depth
    decided = {"method": "fedtpg", "method_options": released.options(depth, wished.method_options)}
    chosen = resolve(wished.model_copy(update=decided))
    folder = import_run(chosen, released.state, checkpoint, released.check, run)
    typer.echo(printable(folder.path))
