"""`promptfed words`: the vocabulary words nearest to what a run learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptfed.commands import options
from promptfed.printable import printable


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("words")(words)


def words(
    run: Annotated[Path, typer.Argument(help="A run's folder.", metavar="RUN")],
    client: Annotated[
        int | None, typer.Option("--client", help="Whose prompt [of somebody who never took part].", metavar="K")
    ] = None,
    count: Annotated[int, typer.Option("--count", help="Words for each context vector.", metavar="N")] = 5,
    metric: Annotated[
        str, typer.Option("--metric", help="Distance of token embeddings: euclidean or cosine.", metavar="NAME")
    ] = "euclidean",
    quiet: Annotated[bool, options.quiet_option("the words, a line a vector,")] = False,
    json: options.Json = False,
) -> None:
    """Print the vocabulary words that lie nearest to each learned context vector of a run.

    The words are a hint at most: a context means what the text tower makes of all its vectors together.

    \b
    Examples:
      promptfed words runs/NAME
      promptfed words runs/NAME --client 0 --count 3 --metric cosine
    """
    import json as as_json

    from promptfed.commands.opened import open_run
    from promptfed.run import Run

    nearest = Run(open_run(run, is_asked=False), words=str).prompt(client).nearest_words(count, metric)
    if quiet and not json:
        for vector in nearest:
            typer.echo(" ".join(printable(word) for word, _ in vector.words))
        return
    typer.echo(as_json.dumps(nearest.recorded(), indent=2) if json else repr(nearest))
