"""The command line: `promptfed ...`. Errors a user can act on are one line and exit code 2."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Annotated

import typer

from promptfed.commands import (
    attack,
    bench,
    cache,
    compare,
    doctor,
    evaluate,
    export,
    flower,
    import_,
    library,
    listing,
    nearest_words,
    personalize,
    predict,
    privacy,
    report,
    search,
    serve,
    serve_bundle,
    share,
    site,
    synthetic,
    tasks,
    train,
    watch,
)
from promptfed.commands.empty_paths import refuse_empty_paths
from promptfed.commands.help_page import build_command
from promptfed.commands.shell_scripts import mend_zsh_script
from promptfed.errors import BudgetExhausted, ConfigError, PromptFedError
from promptfed.language_models.remote_code import FLAG, trust_remote_code
from promptfed.printable import printable
from promptfed.stderr_log import warnings_on_stderr

# Newer typer carries its own click: take the class of usage errors from typer, whichever it uses.
UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

MACHINE = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN")
    if hasattr(errno, name)
)
"""Conditions of the machine, also where no file is named: the output goes to a full disk, say."""
LONGEST_PATH = 300
"""Characters of a path that a message shows."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
LONGEST_MESSAGE = 4_000
"""Characters of an error that are shown: what files hold and what is typed may be of any length."""

app = typer.Typer(
    name="promptfed",
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help", "--help-all"]},
)
train.add_to(app)
compare.add_to(app)
evaluate.add_to(app)
export.add_to(app)
predict.add_to(app)
serve_bundle.add_to(app)
share.add_to(app)
personalize.add_to(app)
import_.add_to(app)
listing.add_to(app)
report.add_to(app)
watch.add_to(app)
privacy.add_to(app)
tasks.add_to(app)
attack.add_to(app)
bench.add_to(app)
serve.add_to(app)
flower.add_to(app)
site.add_to(app)
nearest_words.add_to(app)
cache.add_to(app)
search.add_to(app)
library.add_to(app)
synthetic.add_to(app)
doctor.add_to(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        import promptfed

        typer.echo(f"promptfed {promptfed.__version__}")
        raise typer.Exit()


@app.callback()
def start(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole traceback of an error (anywhere on the line).")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            help="Run this code first: a module or a .py file that adds methods, aggregators, tasks, data or models "
            "(anywhere on the line, several times).",
            metavar="MODULE|FILE",
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run the code that a language model brings (anywhere on the line)."),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Federated prompt learning: clients tune prompts on private data against a frozen model, a server merges them.

    \b
    Examples:
      promptfed train --task clip-fewshot                     the whole story, on rendered icons, in minutes
      promptfed train --task clip-fewshot --data folder:photos --backbone lit
      promptfed compare --methods promptfl,kgcoop --seeds 3   same data and budget for all, in one table
      promptfed personalize runs/NAME                         fine-tune on every client, mix as validation says
      promptfed export runs/NAME --client 0 --out bundle      a client's own prompt, to deploy
      promptfed predict bundle photo.jpg --classes cat,dog    also with classes it never saw
      promptfed serve bundle                                  the same over HTTP
      promptfed flower init hospitals --data sites --clients 3   a run over real sites
      promptfed watch                                         all runs live in the browser
      promptfed list methods                                  what there is
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with a status.

    0: done, 2: an error to fix, 3: a used-up budget, 130: interrupted, 1: a fault of promptfed's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _open_closed_streams()
    _escape_what_has_no_letter()
    _settle_environment()
    debug = "--debug" in words or os.environ.get("PROMPTFED_DEBUG", "0").lower() not in ("", "0", "false", "no", "off")
    if FLAG in words:
        trust_remote_code()
    words = [word for word in words if word not in ("--debug", FLAG)]
    try:
        with warnings_on_stderr():
            words = _without_plugins(words)
            mend_zsh_script(words)
            code = build_command(refuse_empty_paths(app))(words, prog_name="promptfed", standalone_mode=False)
        if code == INTERRUPTED:  # typer turns Ctrl-C into this number, without a word
            raise KeyboardInterrupt
    except (PromptFedError, UsageError) as error:
        if debug:
            raise
        _fail(error.format_message() if hasattr(error, "format_message") else str(error))
        code = 3 if isinstance(error, BudgetExhausted) else 2
    except SystemExit as left:  # by 1: click's way out where nobody reads the output any more, as with `| head -1`
        code = 0 if left.code == 1 else left.code
    except (KeyboardInterrupt, typer.Abort):
        if debug:
            raise
        _fail("interrupted")
        code = INTERRUPTED
    except Exception as error:
        if debug:
            raise
        if refusal := _refusal_of_the_machine(error):
            _fail(refusal)
            sys.exit(2)
        _fail(f"unexpected {type(error).__name__}: {error} (a fault of promptfed's; --debug shows where)")
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _without_plugins(words: list[str]) -> list[str]:
    """Load the plug-ins that ``words`` and the user's own list name, and return the other words.

    Raises ConfigError for one that cannot be loaded.
    """
    words_left, names, remaining = [], [], iter(words)
    for word in remaining:
        if word == "--plugin":
            names.append(next(remaining, ""))
        elif word.startswith("--plugin="):
            names.append(word.removeprefix("--plugin="))
        else:
            words_left.append(word)
    if names or os.environ.get("PROMPTFED_PLUGINS"):
        from promptfed.plugins import load_listed_plugins, load_plugins

        load_listed_plugins()
        if "" in names:
            raise ConfigError("--plugin needs a module or a .py file")
        load_plugins(names)
    return words_left


def _open_closed_streams() -> None:
    """Redirect closed standard streams (``>&-``) to nowhere.

    Otherwise the next file that is opened, one of the run's, takes the number of the stream, and what a library prints
    is written into it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (as long as the process)
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _settle_environment() -> None:
    """Set matplotlib's environment: no window, and a valid SOURCE_DATE_EPOCH.

    Matplotlib reads these when a run's report is drawn, after all the work, and fails on an unknown value.
    """
    os.environ["MPLBACKEND"] = "agg"
    if not os.environ.get("SOURCE_DATE_EPOCH", "0").isdecimal():
        del os.environ["SOURCE_DATE_EPOCH"]


def _escape_what_has_no_letter() -> None:
    """Have characters that the terminal's encoding lacks printed as escapes: no result is lost for a "±".

    Python's own streams are strict, in the C and POSIX locales ``surrogateescape``; both fail on such a letter.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def _refusal_of_the_machine(error: Exception) -> str:
    """Return a message for an error of the machine rather than of promptfed; empty if it is none."""
    if isinstance(error, MemoryError):
        return f"there is not enough memory for that ({' '.join(str(error).split()) or 'this machine refuses more'})"
    if not isinstance(error, OSError) or not error.strerror:
        return ""
    if error.filename is not None:
        return f"the system refuses '{os.fsdecode(error.filename)[:LONGEST_PATH]}': {error.strerror}"
    return f"the system refuses to read or write: {error.strerror}" if error.errno in MACHINE else ""


def _fail(message: str) -> None:
    line = printable(" ".join(message.split()))
    if len(line) > LONGEST_MESSAGE:  # a name in it is; what is wrong stands before it, the fix behind it
        line = f"{line[: LONGEST_MESSAGE // 2]} [...] {line[-LONGEST_MESSAGE // 2 :]}"
    typer.echo(f"error: {line}", err=True)


if __name__ == "__main__":
    main()
