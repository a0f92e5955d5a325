"""`promptfed bench`: suites of comparisons, each run by one command and shown as one table."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.errors import ConfigError, RunError
from promptfed.printable import printable

PAGE = "bench.md"

SuiteName = Annotated[str, typer.Argument(help="Name of a suite, or a YAML file of your own.", metavar="SUITE")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    bench = typer.Typer(
        no_args_is_help=True, help="Run suites of comparisons, and show their tables.", rich_markup_mode=None
    )
    bench.command("list")(list_)
    bench.command("run")(run)
    bench.command("table")(table)
    app.add_typer(bench, name="bench")


def list_(
    quiet: Annotated[bool, options.quiet_option("their names")] = False,
    json: options.Json = False,
) -> None:
    """List the suites, what is in them, how long they take, and what they need.

    \b
    Examples:
      promptfed bench list
      promptfed bench list --json
    """
    import json as as_json

    from promptfed.bench.suite import load_suite, suite_names

    suites = {name: load_suite(name) for name in suite_names()}
    if json:
        typer.echo(as_json.dumps({name: suite.model_dump(mode="json") for name, suite in suites.items()}, indent=2))
        return
    for name, suite in suites.items():
        if quiet:
            typer.echo(name)
            continue
        typer.echo(f"{name}: {suite.description} ({suite.time})")
        for key, entry in suite.entries.items():
            needs = f"; needs {entry.needs}" if entry.needs else ""
            typer.echo(f"  {key}: {entry.title}{needs}")


def run(
    suite: SuiteName,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder; the same one goes on [a fresh one under runs/].", metavar="DIR"),
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", help="Entries of the suite, by name; the others are left.", metavar="A,B")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="Number of seeds [what the suite says].", min=1, metavar="N")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            help="Comparisons at a time, each with its share of the cores [what the suite says].",
            min=1,
            metavar="N",
        ),
    ] = None,
    data_root: Annotated[
        str | None, typer.Option("--data-root", help="Where your data are, for suites that need them.", metavar="DIR")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="Threads of the CPU for each comparison [its share].", min=1, metavar="N"),
    ] = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Run a suite: each of its comparisons over its seeds, in a folder of its own, with baselines in every table.

    Writes bench.json and bench.md into the folder, after each comparison anew. An entry whose data or extra is missing
    is left out, and the table says why. Published figures stand beside ours with what differs in the protocol.

    \b
    Examples:
      promptfed bench run mini --out mini
      promptfed bench run mini --seeds 1 --only images
      promptfed bench run text --data-root DATA --out text

    Ctrl-C stops after the client that is under way; the same command with the same --out goes on.
    """
    import json as as_json

    from promptfed.bench.execute import run_suite
    from promptfed.bench.suite import load_suite
    from promptfed.bench.table import bench_markdown
    from promptfed.comparison.folder import comparison_folder
    from promptfed.files.atomic import write_text
    from promptfed.report.consoles import output
    from promptfed.report.live_comparison import live_comparison
    from promptfed.runner import stop_on_ctrl_c
    from promptfed.training import Interrupted

    content = load_suite(suite)
    content.check(only, seeds or content.seeds, data_root, threads)
    with (
        comparison_folder(out) as folder,
        live_comparison(not (quiet or json)) as progress,
        stop_on_ctrl_c(progress.note) as should_stop,
    ):
        try:
            results = run_suite(
                suite,
                content,
                folder,
                progress,
                seeds=seeds,
                only=only,
                jobs=jobs,
                data_root=data_root,
                threads=threads,
                should_stop=should_stop,
            )
        except Interrupted as stopped:
            progress.note(
                f"stopped: {stopped.where}. Saved; go on with the same command and --out {shlex.quote(str(folder))}"
            )
            raise SystemExit(stopped.code) from stopped
        text = bench_markdown(results)
        write_text(folder / PAGE, text)
    if json:
        typer.echo(as_json.dumps({**results, "out": str(folder)}, indent=2))
    elif quiet:
        typer.echo(printable(folder))
    else:
        output().print(text, highlight=False, markup=False, soft_wrap=True)
    if all("rows" not in entry for entry in results["entries"].values()):
        raise ConfigError(f"no entry of suite '{printable(suite, 80)}' could be run: the reasons stand above")


def table(
    folder: Annotated[Path, typer.Argument(help="The folder of a suite that was run.", metavar="DIR")],
    quiet: Annotated[bool, options.quiet_option("entry, method and figure, a line each,")] = False,
    json: options.Json = False,
) -> None:
    """Show the table of a suite that was run, as Markdown.

    \b
    Examples:
      promptfed bench table mini
      promptfed bench table mini --quiet
    """
    import json as as_json

    from promptfed.bench.execute import RESULTS
    from promptfed.bench.table import bench_markdown
    from promptfed.report.consoles import output

    try:
        results = as_json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        text = bench_markdown(results)
    except FileNotFoundError as error:
        raise RunError(
            f"'{printable(folder)}' has no {RESULTS}: promptfed bench run SUITE --out DIR writes it"
        ) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"cannot read {RESULTS} in '{printable(folder)}': run the suite again with the same --out"
        ) from error
    if json:
        typer.echo(as_json.dumps(results, indent=2))
    elif quiet:
        for key, entry in results["entries"].items():
            for row in entry.get("rows", []):
                typer.echo("\t".join([key, row["method"], f"{row['mean']:.4f}" if "mean" in row else "-"]))
    else:
        output().print(text, highlight=False, markup=False, soft_wrap=True)
