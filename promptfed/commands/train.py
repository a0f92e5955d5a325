"""`promptfed train`: run a federation, or go on with one."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from promptfed.commands import options
from promptfed.commands.dry_run import show_plan
from promptfed.commands.flags import Flags, run_flags, with_flags
from promptfed.config import Options, RunConfig, merge_options, parse_settings
from promptfed.errors import ConfigError, OracleError
from promptfed.option import resumable
from promptfed.oracle_options import OracleOptions
from promptfed.printable import printable

if TYPE_CHECKING:
    from promptfed.observers.base import Observer
    from promptfed.runs.directory import RunDirectory

log = logging.getLogger(__name__)


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("train")(train)


@with_flags(run_flags(), only_common=True)
def train(
    flags: Flags,
    run: Annotated[
        Path | None, typer.Option("--run", help="Folder for the run [a fresh one under runs/].", metavar="DIR")
    ] = None,
    config: options.ConfigFile = None,
    set_: options.Set = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with an interrupted run.", metavar="DIR")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option("--init", help="Begin with the prompt of this run, bundle or PEFT adapter.", metavar="DIR"),
    ] = None,
    trust_address: Annotated[
        bool,
        typer.Option("--trust-address", help="Use the server that the run or the config file names.", hidden=True),
    ] = False,
    observer: options.Observers = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked, sent and paid for, and do none of it.")
    ] = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Train a federated prompt, next to the honest baselines, and write a run directory.

    \b
    Examples:
      promptfed train --task clip-fewshot
      promptfed train --task clip-fewshot --data folder:photos --backbone lit --clients 10 --shots 16
      promptfed train --task clip-domains --data folder:pacs --set task.held_out=sketch --backbone lit
      promptfed train --task clip-fewshot --partition dirichlet --alpha 0.1 --participation 0.5
      promptfed train --config runs/NAME/config.yaml --run again         the same run, bit for bit
      promptfed train --resume runs/NAME                                 after Ctrl-C or a crash
      promptfed train --resume runs/NAME --max-calls 5000                after its budget was used up
      promptfed train --resume runs/NAME --rounds 40                     more rounds for a finished run
      promptfed train --init adapter --task text-classification --method fedprompt
      promptfed train --observer tensorboard --observer wandb:project=mine
      promptfed train --clients 8 --engine ray --threads 1               clients side by side in processes
      promptfed train --task clip-fewshot --set method.lr=0.02 --set method.n_ctx=4
      promptfed train --task blackbox-text --oracle api --base-url URL --model NAME --dry-run     what it would cost

    Ctrl-C stops after the client that is under way and saves; nothing is lost. So does a budget that is used up
    (exit code 3).
    """
    from promptfed.observers.choose import build_observers

    if dry_run:
        if resume is not None or init is not None:
            raise ConfigError("--dry-run is about a new run: leave out --resume and --init")
        show_plan(options.config_from({**flags, "trust_address": trust_address}, config, set_), quiet, json)
        return
    observers = build_observers(observer or ())
    if resume is None:
        folder = _create({**flags, "trust_address": trust_address}, run, config, set_, init)
        _execute(folder, quiet, json, {}, observer or [], observers, is_new=True)
        return
    from promptfed.runs.directory import RunDirectory

    changes = _changes(flags, set_ or [], {"run": run, "config": config, "init": init})
    folder = RunDirectory.open(resume)
    _execute(folder, quiet, json, _admitted(changes, folder, trust_address), observer or [], observers, is_new=False)


def _changes(flags: Flags, settings: list[str], others: dict[str, Any]) -> Options:
    """Return the changes of options for a resumed run. Raise ConfigError for flags that it cannot use."""
    refused = [
        f"--{name.replace('_', '-')}"
        for name, value in {**flags, **others}.items()
        if value is not None and name not in (*resumable(RunConfig), *resumable(OracleOptions))
    ]
    if refused:
        raise ConfigError(f"--resume goes on with the run's own config.yaml; leave out {', '.join(refused)}")
    return merge_options(options.given(flags), parse_settings(settings))


def _admitted(changes: Options, folder: RunDirectory, trust_address: bool) -> Options:
    """Return ``changes`` with the server and key variable that are trusted.

    Raises:
        ConfigError: The run names a server, a key variable or a cluster that the user never has.
    """
    from promptfed.named_model import ModelOptions, named_model
    from promptfed.trust import check_cluster

    what = f"run '{folder.path}'"
    check_cluster(folder.config.ray_address, what, changes.get("ray_address"))
    config, oracle_options = folder.config, changes.get("oracle_options", {})
    user_options = ModelOptions(None, oracle_options.get("base_url"), oracle_options.get("api_key_env"), trust_address)
    trusted = named_model(config).opened(what, user_options).get("oracle_options", {})
    differences = {name: value for name, value in trusted.items() if value != config.oracle_options.get(name)}
    return {**changes, "oracle_options": {**oracle_options, **differences}} if differences else changes


def _create(
    flags: Flags, run: Path | None, config: Path | None, settings: list[str] | None, init: Path | None
) -> RunDirectory:
    from promptfed.resolve import resolve
    from promptfed.runs.directory import RunDirectory
    from promptfed.warm_start import beginning_with, save_first_prompt

    wished, first = beginning_with(options.config_from(flags, config, settings), init)
    chosen = resolve(wished)
    folder = RunDirectory.create(run, chosen, label=f"{chosen.task}-{chosen.method}")
    if first is not None:
        save_first_prompt(folder, first)
    return folder


def _resume_command(folder: RunDirectory, observers: Sequence[str]) -> str:
    """Return the command that resumes the run, ready to be pasted into a shell."""
    again = [word for name in observers for word in ("--observer", name)]
    return shlex.join(["promptfed", "train", "--resume", str(folder.path), *again])


def _execute(
    folder: RunDirectory,
    quiet: bool,
    json: bool,
    changes: Options,
    names: Sequence[str],
    observers: Sequence[Observer],
    is_new: bool,
) -> None:
    from promptfed.report.live import live_progress
    from promptfed.resume_options import resumed
    from promptfed.runner import carry_out, stop_on_ctrl_c
    from promptfed.training import Interrupted, OutOfBudget

    with live_progress(not (quiet or json)) as progress, stop_on_ctrl_c(progress.note) as should_stop:

        def change(config: RunConfig) -> RunConfig:
            return resumed(config, changes, folder.path, progress.note)

        try:
            metrics = carry_out(folder, progress, should_stop, change=change, is_new=is_new, observers=observers)
        except Interrupted as stopped:
            more = (
                "  (allow more: add --max-calls, --max-tokens or --max-usd)" if isinstance(stopped, OutOfBudget) else ""
            )
            progress.note(f"stopped: {stopped.where}. Saved; go on with: {_resume_command(folder, names)}{more}")
            raise SystemExit(stopped.code) from stopped  # the message is out already
        except OracleError:
            progress.note(f"stopped. Saved; go on with: {_resume_command(folder, names)}")
            raise
    show(folder, metrics, folder.path / "report.html", quiet, json)


def show(folder: RunDirectory, metrics: dict[str, Any], report: Path, quiet: bool, json: bool) -> None:
    """Print the results of a finished run.

    Args:
        folder: The directory of the run.
        metrics: The content of its metrics.json.
        report: The path of its report.
        quiet: Whether to print the folder alone.
        json: Whether to print JSON.
    """
    import json as as_json

    from promptfed.named_model import named_model
    from promptfed.report.consoles import output
    from promptfed.report.measure_table import measure_table
    from promptfed.report.oracle_usage import asked_words, not_answered_words, usage_of
    from promptfed.report.tables import domains_table, notes_below, results_table, update_words
    from promptfed.runs.journal import environment_of

    if json:
        about = environment_of(folder.events.read())
        typer.echo(as_json.dumps({**metrics, "run": str(folder.path), "environment": about}, indent=2))
    elif quiet:
        typer.echo(printable(folder.path))
    else:
        console = output()
        console.print(results_table(metrics))
        if metrics["method"].get("domains"):
            console.print(domains_table(metrics))
        if metrics.get("measures"):
            console.print(measure_table(metrics))
        for line in notes_below(metrics):
            console.print(line, markup=False, highlight=False)
        cost = metrics["cost"]
        work, queries = named_model(folder.config).work, f"{cost['oracle_queries']:,} queries"
        done = work.words(cost) if work else f"{queries}: {asked_words(usage_of(cost))}"
        console.print(
            f"sent {cost['bytes_up']:,} bytes up, {cost['bytes_down']:,} down; {cost['seconds']:.0f} s; {done}",
            highlight=False,
        )
        if size := update_words(metrics):
            console.print(size, highlight=False)
        for line in metrics.get("privacy", ()):
            console.print(line, markup=False, highlight=False)
        if warning := not_answered_words(metrics):
            console.print(warning, style="bold", markup=False, highlight=False)
        console.print(f"report: {report}\nrun:    {folder.path}", highlight=False, soft_wrap=True)
