"""`promptfed cache`: what promptfed keeps on disk, and how to be rid of it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from promptfed.commands import options
from promptfed.counts import readable_age
from promptfed.errors import ConfigError
from promptfed.printable import printable

if TYPE_CHECKING:
    from promptfed.cache_entries import Entry


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    cache = typer.Typer(
        help="What promptfed keeps on disk to compute it once, and how to be rid of it.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    cache.command("info")(info)
    cache.command("clean")(clean)
    app.add_typer(cache, name="cache")


def info(
    quiet: Annotated[bool, options.quiet_option("the folder")] = False,
    json: options.Json = False,
) -> None:
    """Show where the cache is, what is in it by kind, and how large it may grow.

    \\b
    Examples:
      promptfed cache info
      promptfed cache info --json
    """
    import json as as_json

    from promptfed.cache_dir import cache_folder, feature_limit
    from promptfed.cache_entries import KINDS, cache_entries

    folder = cache_folder()
    if quiet:
        typer.echo(printable(folder))
        return
    entries, limit = cache_entries(folder), feature_limit()
    of_kinds = {kind: [entry for entry in entries if entry.kind == kind] for kind in KINDS}
    sizes = {kind: sum(entry.size for entry in some) for kind, some in of_kinds.items()}
    days = {kind: (time.time() - some[0].used) / 86400 for kind, some in of_kinds.items() if some}
    if json:
        rows = {
            kind: {"entries": len(some), "bytes": sizes[kind], "oldest_days": days.get(kind), "about": KINDS[kind]}
            for kind, some in of_kinds.items()
        }
        facts = {"folder": str(folder), "features_limit_bytes": limit, "kinds": rows}
        typer.echo(as_json.dumps(facts, indent=2))
        return
    typer.echo(f"cache in {printable(folder)} (PROMPTFED_CACHE names another folder)")
    for kind, age in days.items():
        count = len(of_kinds[kind])
        words = f"{count:,} {'entry' if count == 1 else 'entries'}"
        old = readable_age(86400 * age)
        typer.echo(f"  {kind:<15} {shown_size(sizes[kind]):>8}  {words:>13}, oldest {old}: {KINDS[kind]}")
    typer.echo(f"  {'in all':<15} {shown_size(sum(sizes.values())):>8}")
    typer.echo(f"features may take {shown_size(limit)} (PROMPTFED_CACHE_MAX); `promptfed cache clean` removes some")


def clean(
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind", help="Such as features, towers, answers; several with commas [all but answers].", metavar="KIND"
        ),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="What was not used for so long: 30d, 12h, 2w.", metavar="AGE")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option("--max-size", help="The oldest, until the rest is no more: 2GB.", metavar="SIZE")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    quiet: Annotated[bool, options.quiet_option("the bytes that are gone")] = False,
    json: options.Json = False,
) -> None:
    """Remove what promptfed can compute again. It asks before, unless --yes is given.

    Answers of black boxes may have cost money: they go only with --kind answers. What another process uses stays, and
    so does every file that promptfed did not make.

    \\b
    Examples:
      promptfed cache clean --older-than 30d
      promptfed cache clean --kind features --max-size 2GB --yes
      promptfed cache clean --kind answers --dry-run
    """
    import json as as_json

    from promptfed.cache_dir import cache_folder, parsed_size
    from promptfed.cache_entries import cache_entries, chosen_entries, parsed_age, remove_entries

    folder = cache_folder()
    kinds = [name.strip() for text in kind or () for name in text.split(",") if name.strip()]
    age = None if older_than is None else parsed_age(older_than)
    size = None if max_size is None else parsed_size(max_size, "--max-size")
    chosen = chosen_entries(cache_entries(folder), kinds, age, size)
    gone: Sequence[Entry] = chosen
    left: Sequence[tuple[Entry, str]] = ()
    if chosen and not dry_run:
        _confirm(chosen, yes, asks=not (json or quiet))
        gone, left = remove_entries(folder, chosen)
    amount = sum(entry.size for entry in gone)
    if json:
        facts = {
            "removed": not dry_run,
            "entries": len(gone),
            "bytes": amount,
            "left": [{"path": str(entry.path), "why": why} for entry, why in left],
        }
        typer.echo(as_json.dumps(facts, indent=2))
    elif quiet:
        typer.echo(str(amount))
    else:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {_summed(gone)} from {printable(folder)}")
        for entry, why in left:
            typer.echo(f"note: {printable(entry.path)} stays: {printable(why)}", err=True)


def shown_size(size: int) -> str:
    """Return bytes as a person reads them."""
    for unit, most in (("B", 1e3), ("kB", 1e6), ("MB", 1e9)):
        if size < most:
            return f"{size * 1000 / most:.0f} {unit}" if unit != "B" else f"{size} B"
    return f"{size / 1e9:.1f} GB"


def _summed(entries: Sequence[Entry]) -> str:
    if not entries:
        return "nothing"
    kinds = ", ".join(dict.fromkeys(entry.kind for entry in entries))
    return f"{len(entries)} entries, {shown_size(sum(entry.size for entry in entries))} ({kinds})"


def _confirm(chosen: Sequence[Entry], yes: bool, *, asks: bool) -> None:
    """Ask whether ``chosen`` may go. Raises ConfigError where nobody can answer."""
    if yes:
        return
    if not asks or not sys.stdin.isatty():
        raise ConfigError(f"{_summed(chosen)} would be removed: say --yes, or look first by --dry-run")
    if not typer.confirm(f"remove {_summed(chosen)}?"):
        raise typer.Exit(0)
