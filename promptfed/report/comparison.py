"""A comparison as tables: for the terminal and as Markdown. ``comparison_page`` makes the page of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from promptfed.counts import number_of
from promptfed.printable import markdown_cell, plain_text, printable, printable_lines
from promptfed.report.comparison_measures import measure_section
from promptfed.report.comparison_privacy import privacy_section
from promptfed.report.html import readable_bytes
from promptfed.report.tables import (
    LOCAL_ALL,
    best_cells,
    interval,
    notes_below,
    percent,
    without_empty,
    without_repeated,
)
from promptfed.result_notes import flag
from promptfed.usage import ENCODING, READING, READINGS, Work

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

Summary = Mapping[str, Any]

QUERIES_NOTE = (
    "Accuracy on the clients' validation examples, mean over seeds, after so many queries of training; the dashed line "
    "is zero-shot."
)

FIGURES = (("local", "local"), ("local_all", LOCAL_ALL), ("base", "base"), ("new", "new"), ("hm", "HM"))
NOTE_WIDTH, MOST_OF_A_NOTE = 34, 200
COSTS = ("up", "down", "total", "seconds")
ORACLE_COSTS = ("up", "down", "seconds", "queries", "all", "calls", "USD")
EXPLAINED = {
    "local": "each client on its own classes, if it has two or more, mean over clients",
    LOCAL_ALL: "each client's own test examples among all training classes",
    "base": "all training classes together",
    "new": "classes no client ever saw",
    "HM": "harmonic mean of the three, low as soon as one of them is low",
}
EXPLAINED_WINDOWS = {
    **EXPLAINED,
    "local": "each station's own test windows, mean over stations",
    "base": "all test windows of the stations that take part",
    "new": "those of stations that take no part",
}
EXPLAINED_ANSWERS = {
    **EXPLAINED,
    "local": "each client on its own test questions, mean over clients",
    "base": "all test questions together",
}
"""The same for questions with free answers, which have no classes."""
EXPLAINED_EPISODES = {
    **EXPLAINED,
    "local": "each cell's own test episodes, mean over cells",
    "base": "all test episodes of the cells that take part",
    "new": "those of cells that take no part",
}
EXPLAINED_OF = {"questions": EXPLAINED_ANSWERS, "windows": EXPLAINED_WINDOWS, "episodes": EXPLAINED_EPISODES}
"""What the examples are called -> what columns mean, where they have no classes."""
COST_CAPTION = (
    "Cost of one run, mean over seeds. up, down: bytes a round as serialised, all clients together; seconds of work, "
    "summed over clients; "
)
TOWERS_CAPTION = (
    "total: bytes of the whole run; images, texts: how many went through the towers in training, validation and test, "
    "beside the features that all runs share."
)
READING_CAPTION = (
    "total: bytes of the whole run; texts, tokens: how much the language model read in training, validation and test, "
    "what is trained not counted."
)
ORACLE_CAPTION = (
    "queries: of one client in a round of training; all: of the run, validation and test included; calls: those whose "
    "answer was not known from an earlier run or method."
)
DOMAINS_CAPTION = "Test accuracy in % by domain, all base classes together. * no client holds this domain."


def title(summary: Summary) -> str:
    """Return the title of the comparison."""
    return f"Comparison on {summary['task']}"


def about(summary: Summary) -> str:
    """Return a line about the data, the model and the seeds."""
    seeds = f"seeds {', '.join(map(str, summary['seeds']))}"
    partitions = f"partition seeds {', '.join(map(str, summary['partition_seeds']))}"
    budget = f"{number_of('round', summary['rounds'])}, {number_of('shot', summary['shots'])}"
    oracle = summary.get("oracle")
    kind = "language model" if work_of(summary) is READING else "backbone"
    model = f"oracle {oracle}" if oracle else f"{kind} {summary['backbone']}"
    return f"Data {summary['data']}, {model}, {budget}, {seeds}, {partitions}."


def finished(summary: Summary) -> dict[str, Mapping[str, Any]]:
    """Return the methods with at least one finished run."""
    return {name: entry for name, entry in summary["methods"].items() if entry["runs"]}


def left_out(summary: Summary) -> list[str]:
    """Return a sentence about each method that is missing, wholly or for some seeds."""
    sentences = []
    for name, entry in summary["methods"].items():
        n_missing = len(summary["seeds"]) - len(entry["runs"])
        if entry["left_out"] or n_missing:
            why = entry["left_out"] or "not run yet"
            share = "" if not entry["runs"] else f" on {n_missing} of {len(summary['seeds'])} seeds"
            sentences.append(f"{name}{share}: {why}")
    return sentences


# ---------------------------------------------------------------------------------------------------- cells


def sections(summary: Summary) -> list[dict[str, Any]]:
    """Return the tables: ``title``, ``columns``, ``rows`` of (name, label, cells, best marks), ``caption``."""
    methods = finished(summary)
    if not methods:
        return []
    names, keys = zip(*((name, key) for key, name in FIGURES), strict=True)
    accuracies = without_repeated([[figure_cell(m, key) for key in keys] for m in methods.values()])
    columns, figures = without_empty(names, accuracies)
    accuracy = _section("Accuracy", columns, accuracy_caption(summary, columns), methods, figures, mark=True)
    accuracy["notes"] = {name: flag(m.get("below_zero_shot") or ()) for name, m in methods.items()}
    for name, entry in summary["methods"].items():
        if name not in methods and entry["left_out"]:
            accuracy["rows"].append((name, entry["label"], ("-",) * len(columns), (False,) * len(columns)))
            accuracy["notes"][name] = entry["left_out"]
    tables = [accuracy]
    domains = next((list(m["domains"]) for m in methods.values()), [])
    if domains:
        columns = [f"{name} *" if name in summary["held_out"] else name for name in domains]
        cells = [tuple(spread_cell(m["domains"].get(name)) for name in domains) for m in methods.values()]
        tables.append(_section("By domain", columns, DOMAINS_CAPTION, methods, cells, mark=True))
    if (measures := measure_section(summary, methods)) is not None:
        tables.append(measures)
    work = work_of(summary)
    cells = [cost_cells(m, work) for m in methods.values()]
    columns, cells = without_empty(ORACLE_COSTS if work is None else (*COSTS, *work.columns.values()), cells)
    about_white_box = READING_CAPTION if work is READING else TOWERS_CAPTION
    costs = COST_CAPTION + (ORACLE_CAPTION + budget_words(summary) if work is None else about_white_box)
    tables.append(_section("Cost", columns, costs, methods, cells, mark=False))
    if (privacy := privacy_section(methods)) is not None:
        tables.append(privacy)
    options = {name: (str(m["tuned"]).strip("{}").replace("'", ""),) for name, m in methods.items() if m["tuned"]}
    if options:
        caption = "Chosen on the validation examples of a partition of its own; no test example was looked at."
        searched = {name: methods[name] for name in options}
        tables.append(_section("Search", ["chosen"], caption, searched, list(options.values()), mark=False))
    return tables


def accuracy_caption(summary: Summary, columns: Sequence[str]) -> str:
    """Return the caption of the table of accuracies."""
    lead = "Test accuracy in %, mean ± standard deviation over seeds (n - 1), of one seed [95 % interval]."
    return f"{lead} {meaning_of(summary, columns)}"


def meaning_of(summary: Summary, columns: Sequence[str]) -> str:
    """Return what the figures under ``columns`` mean, as a sentence."""
    explained = EXPLAINED_OF.get(str(summary.get("examples")), EXPLAINED)
    return f"{'; '.join(f'{column}: {explained[column]}' for column in columns)}."


def asks_oracle(summary: Summary) -> bool:
    """Return whether the model of the compared runs is a black box."""
    return any(method.get("oracle_queries") for method in finished(summary).values())


def work_of(summary: Summary) -> Work | None:
    """Return how the work of the compared runs' model is shown; None: as queries to a black box."""
    if asks_oracle(summary):
        return None
    return READING if any(method.get(name) for method in finished(summary).values() for name in READINGS) else ENCODING


def budget_words(summary: Summary) -> str:
    """Return whether all methods have the same budget of queries for a client and round, as a sentence."""
    budgets = {n: m["options"]["queries"] for n, m in finished(summary).items() if "queries" in m.get("options", {})}
    if len(set(budgets.values())) == 1:
        return f" The budget is the same for all methods: at most {next(iter(budgets.values()))} a client and round."
    if not budgets:
        return ""
    limits = ", ".join(f"{name} {queries}" for name, queries in budgets.items())
    return f" The budgets a client and round differ: {limits}; --set method.queries=N makes them equal."


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
    rows = [
        (name, methods[name]["label"], row_cells, marks)
        for name, row_cells, marks in zip(methods, cells, best, strict=True)
    ]
    return {"title": title, "columns": list(columns), "rows": rows, "caption": caption, "notes": {}}


def figure_cell(method: Mapping[str, Any], key: str) -> str:
    """Format mean and spread over seeds; of a single run its 95 % interval."""
    ends = (method.get("intervals") or {}).get(key)
    return f"{spread_cell(method.get(key))} {interval(ends)}".strip()


def spread_cell(spread: Mapping[str, float | None] | None) -> str:
    """Format ``{"mean": 0.712, "std": 0.01}`` as ``"71.2 ± 1.0"``."""
    if spread is None:
        return "-"
    return percent(spread["mean"]) if spread["std"] is None else f"{percent(spread['mean'])} ± {percent(spread['std'])}"


def cost_cells(method: Mapping[str, Any], work: Work | None) -> tuple[str, ...]:
    """Format the costs of one method, as COSTS and the columns of ``work``, or as ORACLE_COSTS."""
    up, down, total = (
        readable_bytes(round(method[key])) for key in ("bytes_up_a_round", "bytes_down_a_round", "bytes")
    )
    seconds = f"{method['seconds']:,.1f}"
    if work is None:
        costs = (f"{method[key]:,.0f}" for key in ("queries_a_round", "oracle_queries", "oracle_calls"))
        return (up, down, seconds, *costs, f"{method['usd']:.4f}" if method["usd"] else "-")
    return (up, down, total, seconds, *(f"{method.get(key, 0):,.0f}" for key in work.columns))


def seed_rows(summary: Summary) -> tuple[list[str], list[tuple[str, int, tuple[str, ...]]]]:
    """Return columns with figures, and (method, seed, percents) of every finished run."""
    runs = [(name, run) for name, method in finished(summary).items() for run in method["runs"]]
    cells = without_repeated([[percent(run.get(key)) for key, _ in FIGURES] for _, run in runs])
    columns, visible = without_empty([name for _, name in FIGURES], cells)
    return columns, [(name, run["seed"], row_cells) for (name, run), row_cells in zip(runs, visible, strict=True)]


# --------------------------------------------------------------------------------------------------- output


def comparison_tables(summary: Summary) -> list[Table | Text]:
    """Return tables for the terminal, wide enough for whole names, each with its caption; last what is left out."""
    from rich.table import Table

    parts: list[Table | Text] = []
    for section in sections(summary):
        table = Table(title=section["title"], title_justify="left")
        table.add_column("method", overflow="fold")  # names and notes give way where figures need the place
        for column in section["columns"]:
            header = plain_text(column.replace(" (", "\n("))
            table.add_column(header, justify="right", no_wrap=len(section["columns"]) <= len(ORACLE_COSTS))
        for name, _, cells, best in section["rows"]:
            label = plain_text(name)
            for line in wrap(printable(section["notes"].get(name) or "", MOST_OF_A_NOTE), NOTE_WIDTH):
                label.append(f"\n{line}", style="yellow")
            table.add_row(label, *(plain_text(c, "bold" if b else "") for c, b in zip(cells, best, strict=True)))
        parts += [table, plain_text(section["caption"] + "\n", "dim")]  # a caption of the table would be as narrow
    below = [*notes_below(summary), *(f"left out: {line}" for line in left_out(summary))]
    return [*parts, *map(plain_text, below)]


def comparison_markdown(summary: Summary) -> str:
    """Return all tables as Markdown, best figures bold."""
    lines = [f"# {title(summary)}", "", about(summary), ""]
    for section in sections(summary):
        lines += [f"## {section['title']}", "", f"| | {' | '.join(map(markdown_cell, section['columns']))} |"]
        lines.append(f"|---|{'---:|' * len(section['columns'])}")
        for name, _, cells, best in section["rows"]:
            words = (f"**{c}**" if b else c for c, b in zip(cells, best, strict=True))
            note = markdown_cell(section["notes"].get(name) or "")
            lines.append(f"| `{markdown_cell(name)}`{f' ({note})' if note else ''} | {' | '.join(words)} |")
        lines += ["", section["caption"], ""]
    if asks_oracle(summary) and any(m.get("query_curve") for m in finished(summary).values()):
        lines += ["![Accuracy against queries](queries.png)", "", QUERIES_NOTE, ""]
    lines += [line for note in notes_below(summary) for line in (note, "")]
    lines += [f"Left out: {sentence}" for sentence in left_out(summary)]
    return printable_lines("\n".join(lines).rstrip()) + "\n"


def interval_of(method: Mapping[str, Any], key: str) -> Sequence[float] | None:
    """Return the 95 % interval of a method's figure: over the seeds, or of one seed over its examples."""
    over_seeds = (method.get("seed_intervals") or {}).get(key)
    return over_seeds or (method.get("intervals") or {}).get(key)
