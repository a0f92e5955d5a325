"""`promptfed train --dry-run`: what a run would ask, send and cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import typer

from promptfed.commands.plain_tables import plain_table
from promptfed.counts import number_of
from promptfed.printable import printable

if TYPE_CHECKING:
    from promptfed.config import RunConfig
    from promptfed.dry_run import BlackBoxPlan, WhiteBoxPlan
    from promptfed.usage import Usage


def show_plan(config: RunConfig, quiet: bool, json: bool) -> None:
    """Print what a run with ``config`` would ask, send and cost.

    Args:
        config: Its options, not resolved.
        quiet: Whether to print calls, tokens and dollars alone; of a white box the bytes of all rounds.
        json: Whether to print JSON.
    """
    import json as as_json

    from promptfed.dry_run import BlackBoxPlan, dry_run
    from promptfed.resolve import resolve

    plan = dry_run(resolve(config))
    record = black_box_record(plan) if isinstance(plan, BlackBoxPlan) else white_box_record(plan)
    if json:
        typer.echo(as_json.dumps(record, indent=2))
    elif quiet:
        total = record["total"]
        typer.echo("\t".join(str(total[name]) for name in total))
    elif isinstance(plan, BlackBoxPlan):
        _show_black_box(plan)
    else:
        for line in white_box_lines(plan):
            typer.echo(line)


def black_box_record(plan: BlackBoxPlan) -> dict[str, Any]:
    """Return ``plan`` for JSON."""
    rows = [{"stage": stage, "round": round, **_amounts(usage)} for (stage, round), usage in plan.rows.items()]
    return {
        "oracle": plan.oracle,
        "rows": rows,
        "total": _amounts(plan.totals[0]),
        "at_most": _amounts(plan.most),
        "agree": plan.agree,
        "known": plan.known,
        "exceeds": plan.exceeded,
    }


def white_box_record(plan: WhiteBoxPlan) -> dict[str, Any]:
    """Return ``plan`` for JSON."""
    record = dict(vars(plan))
    total = {"bytes_up": record.pop("total_up"), "bytes_down": record.pop("total_down")}
    return {**record, "total": total}


def white_box_lines(plan: WhiteBoxPlan) -> Iterator[str]:
    """Yield what a run on a white box would do, in words."""
    some = "" if plan.participants == plan.clients else f", {plan.participants} of them in a round"
    yield f"{number_of('client', plan.clients)}{some}; {number_of('training example', plan.examples)}"
    up, down = plan.bytes_up, plan.bytes_down
    most = "at most " if plan.total_down < down * plan.participants * plan.rounds else ""
    yield f"a client sends {most}{up:,} bytes a round and is sent {most}{down:,} in the first one"
    sums = f"about {plan.total_up:,} bytes up and {plan.total_down:,} down in all"
    yield f"{number_of('round', plan.rounds)}: {sums}, baselines not counted"


def _amounts(usage: Usage) -> dict[str, Any]:
    tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    return {"calls": usage.oracle_calls, **tokens, "usd": round(usage.usd, 6)}


def _show_black_box(plan: BlackBoxPlan) -> None:
    from promptfed.report.consoles import output

    console = output()
    table = plain_table()
    table.add_column("stage", no_wrap=True)
    table.add_column("when", no_wrap=True)
    columns = ("calls", "tokens", "usd") if plan.is_server else ("calls",)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for stage, when, usage in _merged(plan):
        table.add_row(printable(stage), when, *_cells(usage, plan.is_server))
    table.add_row("in all", "", *_cells(plan.totals[0], plan.is_server))
    if plan.is_server:
        table.add_row("at most", "", *_cells(plan.most, True))
    console.print(table)
    for line in notes(plan):
        console.print(line, highlight=False, markup=False)


def _cells(usage: Usage, is_server: bool) -> list[str]:
    calls = f"{usage.oracle_calls:,}"
    return [calls, f"{usage.prompt_tokens + usage.completion_tokens:,}", f"{usage.usd:.4f}"] if is_server else [calls]


def _merged(plan: BlackBoxPlan) -> Iterator[tuple[str, str, Usage]]:
    """Yield (stage, when, usage): a row for each round, neighbours of the same size together."""
    from itertools import groupby

    def is_alike(item: tuple[tuple[str, int], Usage]) -> tuple[str, bool, int]:
        (stage, round), usage = item
        return stage, round > 0, usage.oracle_calls

    for (stage, is_round, _), group in groupby(sorted(plan.rows.items(), key=lambda item: item[0]), key=is_alike):
        rows = list(group)
        first, last = rows[0][0][1], rows[-1][0][1]
        when = "validation and tests" if not is_round else f"round {first}"
        if is_round and first != last:
            when = f"each of rounds {first} to {last}"
        yield stage, when, rows[0][1]


def notes(plan: BlackBoxPlan) -> Iterable[str]:
    """Yield what the figures rest on, and what they leave out."""
    calls = sorted(total.oracle_calls for total in plan.totals)
    if plan.agree:
        yield "Two rehearsals with made-up answers came to as many calls; a search may ask a few more or fewer."
    else:
        yield f"The number of calls depends on the answers: {calls[0]:,} and {calls[-1]:,} in two rehearsals."
    if plan.known:
        yield f"{number_of('question', plan.known)} asked before: the answers are in the cache and cost nothing."
    if not plan.is_server:
        yield f"Oracle {plan.oracle} runs in this process: calls cost time alone."
        return
    yield "Tokens: a quarter of the bytes that are sent; at most: one for each byte, and 64 around a question."
    yield "The first run with a server and its labels also asks what it can do, with up to a dozen short requests."
    if not plan.has_prices:
        yield "No price is given: --set oracle.usd_per_million_prompt_tokens=P and ..._completion_tokens=P."
    for name in plan.exceeded:
        yield f"--max-{name} {plan.limits[name]:g} ends the run before its time; promptfed train --resume goes on."
