"""`promptfed search`: a run of federated search put to work, on its test requests or on one request."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options


class Index(StrEnum):
    """What an engine searches."""

    cosine = "cosine"
    bm25 = "bm25"


class By(StrEnum):
    """By what engines are selected."""

    descriptor = "descriptor"
    centroid = "centroid"
    cori = "cori"
    description = "description"


class Merging(StrEnum):
    """How lists become one."""

    raw = "raw"
    round_robin = "round-robin"
    rrf = "rrf"
    minmax_cori = "minmax-cori"
    calibrated = "calibrated"


class Send(StrEnum):
    """What of a request an engine is sent."""

    text = "text"
    embedding = "embedding"


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("search")(search)


def search(
    run: Annotated[Path, typer.Argument(help="A run's folder, of task federated-search.", metavar="RUN")],
    request: Annotated[
        str | None, typer.Argument(help="A request; without it, the test requests make a table.", metavar="[REQUEST]")
    ] = None,
    ask: Annotated[int, typer.Option("--ask", min=1, help="Engines that a request is sent to.", metavar="M")] = 3,
    index: Annotated[Index, typer.Option("--index", help="What engines search: cosine or bm25.")] = Index.cosine,
    by: Annotated[
        By | None,
        typer.Option(
            "--by",
            help="By what engines are selected: descriptor, centroid, cori or description [descriptor, or centroid "
            "where none was trained].",
        ),
    ] = None,
    merge: Annotated[
        Merging,
        typer.Option(
            "--merge", help="How their lists become one: raw (by scores), round-robin, rrf, minmax-cori or calibrated."
        ),
    ] = Merging.raw,
    snippets: Annotated[
        int,
        typer.Option(
            "--snippets", min=0, max=100, help="Words of a document that an engine's answer has.", metavar="N"
        ),
    ] = 0,
    send: Annotated[
        Send, typer.Option("--send", help="What the cosine index is sent of a request: text or embedding.")
    ] = Send.text,
    quiet: Annotated[bool, options.quiet_option("a line a hit (engine, score), or a line a row of the table")] = False,
    json: options.Json = False,
) -> None:
    """Ask the engines of a federated-search run, and merge what they find.

    Each engine keeps its documents and indices. It is sent a request and answers with opaque numbers and scores. The
    table has every index, every selection and every way to merge, on the test requests of the run. A request of your
    own is sent to the best engines. The texts that are shown beside the hits come from the corpora on this machine;
    no answer of an engine has them.

    \b
    Examples:
      promptfed search runs/NAME
      promptfed search runs/NAME --ask 1 --json
      promptfed search runs/NAME "how do I mend a flat tyre" --ask 2
      promptfed search runs/NAME "high tide tomorrow" --index bm25 --merge minmax-cori
    """
    import dataclasses
    import json as as_json

    from promptfed.commands.opened import open_run
    from promptfed.errors import ConfigError
    from promptfed.export.finished import FinishedRun
    from promptfed.printable import printable
    from promptfed.report.consoles import output
    from promptfed.report.search_table import search_table
    from promptfed.search_table import FederatedSearch

    if request is not None and not request.strip():
        raise ConfigError("the request is empty: write what is asked, or leave it out for the table of test requests")
    engines = FederatedSearch(FinishedRun.load(open_run(run)), snippets=snippets, as_vector=send == Send.embedding)
    if by is None:
        by = By.descriptor if By.descriptor in engines.selections else By.centroid
    if by.value not in engines.selections:
        raise ConfigError(
            f"run '{run}' has no descriptors, which method descriptor trains: use --by centroid, cori or description"
        )
    if request is None:
        rows = engines.table(ask)
        if json:
            typer.echo(as_json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        elif quiet:
            for row in rows:
                typer.echo("\t".join([row.index, row.selection, str(row.asked), f"{100 * max(row.ndcg.values()):.1f}"]))
        else:
            output().print(search_table(rows))
        return
    method = {"round-robin": "round robin", "minmax-cori": "minmax-CORI"}.get(merge.value, merge.value)
    chosen, hits = engines.search(request, index=index.value, selection=by.value, merge=method, asked=ask)
    names = [engine.name for engine in engines.engines]
    if json:
        found = [
            {"engine": names[hit.engine], "document": hit.document, "score": hit.score, "text": engines.text(hit)}
            for hit in hits
        ]
        typer.echo(as_json.dumps({"asked": [names[k] for k in chosen], "hits": found}, indent=2))
        return
    if not quiet:
        typer.echo(f"asked: {', '.join(printable(names[k]) for k in chosen)}")
    for hit in hits[:10]:
        line = f"{printable(names[hit.engine])}\t{hit.score:.3f}"
        typer.echo(line if quiet else f"{line}\t{printable(engines.text(hit), 100)}")
