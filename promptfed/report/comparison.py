"""A comparison as tables: for the terminal, as Markdown, as a page with the plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptfed.report.html import Picture, readable_bytes, render
from promptfed.report.tables import best_cells, percent
from promptfed.runs import strict_json
from promptfed.runs.atomic import write_text

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

Summary = Mapping[str, Any]

FIGURES = (("local", "local"), ("base", "base"), ("new", "new"), ("hm", "HM"))
COSTS = ("up", "down", "total", "seconds", "images", "texts")
CAPTION = (
    "Test accuracy in %, mean ± standard deviation over seeds (n - 1). local: each client on its own classes, mean "
    "over clients; base: all training classes together; new: classes no client ever saw; HM: harmonic mean of the "
    "three, low as soon as one of them is low."
)
COST_CAPTION = (
    "Cost of one run, mean over seeds. up, down: bytes a round as serialised, all clients together; total: of the "
    "whole run; seconds of work, summed over clients; images, texts: how many went through the towers in training, "
    "validation and test, beside the features that all runs share."
)
DOMAINS_CAPTION = "Test accuracy in % by domain, all base classes together. * no client holds this domain."


def write_comparison(summary: Summary, folder: Path) -> list[Path]:
    """Write comparison.json, .md, .png and .html into ``folder``; returns their paths."""
    from promptfed.report.comparison_plot import trade_off
    from promptfed.report.figures import data_uri

    paths = [folder / f"comparison.{suffix}" for suffix in ("json", "md", "png", "html")]
    write_text(paths[0], strict_json.dumps(dict(summary), indent=2) + "\n")
    write_text(paths[1], comparison_markdown(summary))
    figure = trade_off(summary)
    if figure is None:
        paths.remove(folder / "comparison.png")
    else:
        figure.savefig(folder / "comparison.png", dpi=160, metadata={"Software": None})
    picture = None if figure is None else Picture(data_uri(figure), "Local accuracy against accuracy elsewhere")
    content = {
        "title": title(summary),
        "about": about(summary),
        "tables": sections(summary),
        "picture": picture,
        "left_out": left_out(summary),
        "seeds": seed_rows(summary),
    }
    write_text(folder / "comparison.html", render("comparison.html.j2", content))
    return paths


def title(summary: Summary) -> str:
    return f"Comparison on {summary['task']}"


def about(summary: Summary) -> str:
    seeds = f"seeds {', '.join(map(str, summary['seeds']))}"
    partitions = f"partition seeds {', '.join(map(str, summary['partition_seeds']))}"
    budget = f"{summary['rounds']} rounds, {summary['shots']} shots"
    return f"Data {summary['data']}, backbone {summary['backbone']}, {budget}, {seeds}, {partitions}."


def finished(summary: Summary) -> dict[str, Mapping[str, Any]]:
    """The methods with at least one finished run."""
    return {name: found for name, found in summary["methods"].items() if found["runs"]}


def left_out(summary: Summary) -> list[str]:
    """Sentences about methods that are missing, wholly or for some seeds."""
    said = []
    for name, found in summary["methods"].items():
        missing = len(summary["seeds"]) - len(found["runs"])
        if found["left_out"] or missing:
            why = found["left_out"] or "not run yet"
            share = "" if not found["runs"] else f" on {missing} of {len(summary['seeds'])} seeds"
            said.append(f"{name}{share}: {why}")
    return said


# ---------------------------------------------------------------------------------------------------- cells


def sections(summary: Summary) -> list[dict[str, Any]]:
    """The tables: ``title``, ``columns``, ``rows`` of (name, label, cells, which are best), ``caption``."""
    methods = finished(summary)
    if not methods:
        return []
    figures = [tuple(spread_cell(m[key]) for key, _ in FIGURES) for m in methods.values()]
    found = [_section("Accuracy", [name for _, name in FIGURES], CAPTION, methods, figures, mark=True)]
    domains = next((list(m["domains"]) for m in methods.values()), [])
    if domains:
        columns = [f"{name} *" if name in summary["held_out"] else name for name in domains]
        cells = [tuple(spread_cell(m["domains"].get(name)) for name in domains) for m in methods.values()]
        found.append(_section("By domain", columns, DOMAINS_CAPTION, methods, cells, mark=True))
    found.append(_section("Cost", COSTS, COST_CAPTION, methods, [cost_cells(m) for m in methods.values()], mark=False))
    tuned = {name: (str(m["tuned"]).strip("{}").replace("'", ""),) for name, m in methods.items() if m["tuned"]}
    if tuned:
        caption = "Chosen on the validation images of a partition of its own; no test image was looked at."
        searched = {name: methods[name] for name in tuned}
        found.append(_section("Search", ["chosen"], caption, searched, list(tuned.values()), mark=False))
    return found


def _section(
    title: str,
    columns: Sequence[str],
    caption: str,
    methods: Mapping[str, Mapping[str, Any]],
    cells: list[tuple[str, ...]],
    *,
    mark: bool,
) -> dict[str, Any]:
    best = best_cells(cells) if mark else [tuple(False for _ in row) for row in cells]
    rows = [(name, methods[name]["label"], own, marks) for name, own, marks in zip(methods, cells, best, strict=True)]
    return {"title": title, "columns": list(columns), "rows": rows, "caption": caption}


def spread_cell(found: Mapping[str, float | None] | None) -> str:
    """``{"mean": 0.712, "std": 0.01}`` -> ``"71.2 ± 1.0"``."""
    if found is None:
        return "-"
    return percent(found["mean"]) if found["std"] is None else f"{percent(found['mean'])} ± {percent(found['std'])}"


def cost_cells(method: Mapping[str, Any]) -> tuple[str, ...]:
    sizes = (readable_bytes(round(method[key])) for key in ("bytes_up_a_round", "bytes_down_a_round", "bytes"))
    calls = (f"{method[key]:,.0f}" for key in ("image_encoder_calls", "text_encoder_calls"))
    return (*sizes, f"{method['seconds']:,.1f}", *calls)


def seed_rows(summary: Summary) -> list[tuple[str, int, list[str]]]:
    """(method, seed, percents) of every finished run."""
    return [
        (name, run["seed"], [percent(run[key]) for key, _ in FIGURES])
        for name, method in finished(summary).items()
        for run in method["runs"]
    ]


# --------------------------------------------------------------------------------------------------- output


def comparison_tables(summary: Summary) -> list[Table | Text]:
    """For the terminal: tables that keep whole names at 100 columns, each with its caption, then what is left out."""
    from rich.table import Table
    from rich.text import Text

    shown: list[Table | Text] = []
    for section in sections(summary):
        table = Table(title=section["title"], title_justify="left")
        table.add_column("method", no_wrap=True)
        for column in section["columns"]:
            table.add_column(Text(column), justify="right", no_wrap=len(section["columns"]) <= len(COSTS))
        for name, _, cells, best in section["rows"]:
            table.add_row(name, *(Text(c, style="bold" if b else "") for c, b in zip(cells, best, strict=True)))
        shown += [table, Text(section["caption"] + "\n", style="dim")]  # a caption of the table would be as narrow
    return [*shown, *(Text(f"left out: {said}") for said in left_out(summary))]


def comparison_markdown(summary: Summary) -> str:
    """All tables as Markdown, best figures bold."""
    lines = [f"# {title(summary)}", "", about(summary), ""]
    for section in sections(summary):
        lines += [f"## {section['title']}", "", f"| | {' | '.join(section['columns'])} |"]
        lines.append(f"|---|{'---:|' * len(section['columns'])}")
        for name, _, cells, best in section["rows"]:
            shown = (f"**{c}**" if b else c for c, b in zip(cells, best, strict=True))
            lines.append(f"| `{name}` | {' | '.join(shown)} |")
        lines += ["", section["caption"], ""]
    lines += [f"Left out: {said}" for said in left_out(summary)]
    return "\n".join(lines).rstrip() + "\n"
