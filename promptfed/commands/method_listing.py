"""``promptfed list methods``: the kind of model that each needs, and the bytes of a round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from promptfed.commands import options
from promptfed.commands.plain_tables import labelled, plain_table

if TYPE_CHECKING:
    from rich.console import Console

    from promptfed.method import Method

USUAL_TASKS = ("clip-fewshot", "text-classification", "forecast", "allocation", "blackbox-text", "vqa")
"""A task for each kind of model or of examples, on which the bytes of methods are counted."""


def needs_of(kind: type[Method]) -> str:
    """Return the kind of model that a method works on, in a few words."""
    if kind.access == "white box":
        return kind.model_kind
    return "any model" if kind.access == "any" else kind.access


def traffic_of(task: str | None, backbone: str | None, wanted: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the bytes down and up of a client in a round for each ``wanted`` method, or why the method does not fit.

    Each method is counted on ``task`` if it works on the task's kind of model, else on the usual task of its own kind.
    """
    from promptfed.communication import round_bytes, sizes_only
    from promptfed.config import RunConfig, build_config
    from promptfed.errors import PromptFedError
    from promptfed.experiment import Experiment
    from promptfed.method import METHODS
    from promptfed.named_model import named_model, usual_model
    from promptfed.resolve import resolve

    def build(name: str, like: Experiment | None = None) -> Experiment:
        config = resolve(build_config(user_options, {"method": name}))
        return Experiment.build(config, like=like, model_for=None if model.work else sizes_only)

    chosen = task or RunConfig.model_fields["task"].default
    traffic: dict[str, dict[str, Any]] = {}
    remaining = list(wanted)
    for usual in dict.fromkeys((chosen, *USUAL_TASKS)):
        model = usual_model(RunConfig(task=usual))
        names = [name for name in remaining if model.fits(METHODS[name])]
        if not names:
            continue
        remaining = [name for name in remaining if name not in names]
        is_of_kind = backbone is not None and named_model(RunConfig(backbone=backbone)).kind == model.kind
        user_options = options.given({"task": usual, "backbone": backbone if is_of_kind else None})
        try:
            plain = build("zero_shot")
        except PromptFedError as error:
            if usual == task or is_of_kind:
                raise
            traffic |= {name: {"bytes_down": None, "bytes_up": None, "unfit": str(error)} for name in names}
            continue
        for name in names:
            try:
                round_traffic = round_bytes(build(name, plain))
                traffic[name] = {"bytes_down": round_traffic.down, "bytes_up": round_traffic.up}
            except PromptFedError as error:
                traffic[name] = {"bytes_down": None, "bytes_up": None, "unfit": str(error)}
    nowhere = {"bytes_down": None, "bytes_up": None, "unfit": "no task here is for its kind of model and examples"}
    return {**dict.fromkeys(remaining, nowhere), **traffic}


def print_methods(console: Console, rows: Mapping[str, Mapping[str, Any]], with_bytes: bool) -> None:
    """Print a line for each method; a narrow terminal cuts titles, and nothing else."""
    table = plain_table()
    names = ("method", "title", "needs", *(("up", "down") if with_bytes else ()), "aggregator")
    cells = []
    for method, row in rows.items():
        traffic = traffic_cells(row) if with_bytes else ()
        cells.append((labelled(method, row), row["name"], row["needs"], *traffic, row["aggregator"]))
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    room = console.width - sum(widths) + widths[1] - 2 * (len(names) - 1)
    for name, width in zip(names, widths, strict=True):
        side: Literal["left", "right"] = "right" if name in ("up", "down") else "left"
        width = max(len("title"), min(width, room)) if name == "title" else width
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify=side, width=width)
    for line in cells:
        table.add_row(*line)
    console.print(table)
    sizes = "up, down: bytes that a client sends and is sent in a round. " if with_bytes else ""
    more = "promptfed list methods NAME shows all about one" + ("" if with_bytes else "; --bytes counts what is sent")
    console.print(f"{sizes}{more}.", highlight=False)


def traffic_cells(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the bytes up and down in readable units, or dashes if the method does not fit."""
    from promptfed.report.html import readable_bytes

    up, down = row["bytes_up"], row["bytes_down"]
    return ("-", "-") if up is None else (readable_bytes(up), readable_bytes(down))
