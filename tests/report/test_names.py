"""Names from outside are shown as they are in tables, pages and pictures, and break none of them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from promptfed.printable import printable
from promptfed.report.comparison import comparison_markdown, comparison_tables
from promptfed.report.comparison_page import write_comparison
from promptfed.report.consoles import output
from promptfed.report.figures import save
from promptfed.report.html import write_report
from promptfed.report.interpolation import curve_markdown
from promptfed.report.live import LiveProgress
from promptfed.report.live_comparison import LiveComparison
from promptfed.report.partition_plot import plot_partition
from promptfed.report.tables import domains_table, results_markdown, results_table
from promptfed.runs.directory import RunDirectory

NAMES = {
    "closing tag": "[/b]",
    "opening tag": "[red]bold",
    "unknown formula": r"$\bad$",
    "formula": "$x^2$ and $y_1$",
    "one dollar": "price in $",
    "escaped dollar": r"a\$b$\frac{",
    "escape code": "\x1b[31mred\x1b]0;title\x07",
    "control bytes": "\x9b2J\x01\r\n\t",
    "reversed": "\u202egnp.exe",
    "60 words": " ".join(f"word{n}" for n in range(60)),
    "html": "<script>alert(1)</script>&amp;",
    "format": "{0} {name} %s %(x)d",
    "emoji code": ":smile: 熊猫 🐼",
    "table": "a|b||c",
}


@pytest.fixture(params=NAMES.values(), ids=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def shown(*renderables: Any) -> str:
    """What a terminal of 2,000 columns gets."""
    console = output()
    console.file, console.width = io.StringIO(), 2_000
    for renderable in renderables:
        console.print(renderable)
    return str(console.file.getvalue())


def controls(text: str) -> list[str]:
    return [c for c in text if c != "\n" and printable(c) != c]


def test_the_picture_of_who_holds_what() -> None:
    counts = [1] * len(NAMES)
    clients = [{"name": name, "train": counts, "val": counts} for name in NAMES.values()]
    for kind in ("png", "svg"):
        save(plot_partition({"classes": list(NAMES.values()), "clients": clients}), buffer := io.BytesIO(), format=kind)
        assert buffer.tell() > 1_000


def test_a_name_that_is_not_utf8_is_shown_by_its_bytes() -> None:
    """Data sources let none through; a table of somebody else may hold one."""
    table = {"classes": ["chien \udce9", "cat"], "clients": [{"name": "a", "train": [1, 1], "val": [0, 0]}]}
    save(plot_partition(table), buffer := io.BytesIO(), format="svg")
    assert buffer.tell()
    assert "chien \\xe9" in shown(results_table(figures_of("chien \udce9")))


def test_a_name_stands_in_the_picture_as_it_is() -> None:
    r"""``svg.fonttype`` none keeps letters as letters, so that the picture can be read."""
    table = {"classes": [r"$\bad$", "cat"], "clients": [{"name": "p$a", "train": [1, 1], "val": [0, 0]}]}
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        save(plot_partition(table), buffer := io.BytesIO(), format="svg")
    page = buffer.getvalue().decode()
    assert r">$\bad$<" in page
    assert ">p$a<" in page


def figures_of(name: str) -> dict[str, Any]:
    stage = {"name": name, "local": 0.5, "local_std": 0.1, "base": 0.5, "new": None, "hm": None, "domains": {name: 0.5}}
    return {"zero_shot": {**stage, "name": "zero-shot"}, "method": stage, "template": name, "held_out": [name]}


def test_tables_of_results(name: str) -> None:
    text = shown(results_table(figures_of(name)), domains_table(figures_of(name)))
    assert printable(name.partition("\n")[0]) in text
    assert not controls(text)
    markdown = results_markdown(figures_of(name))
    assert not controls(markdown)
    assert len({line.replace("\\|", "").count("|") for line in markdown.splitlines()[:4]}) == 1, "no cell is broken"


def summary_of(names: Sequence[str]) -> dict[str, Any]:
    """A comparison in which everything that has a name is called ``names[0]``, the methods like all of them."""
    name, figure = names[0], {"mean": 0.5, "std": 0.1}
    cost = dict.fromkeys(("bytes_up_a_round", "bytes_down_a_round", "bytes", "seconds", "image_encoder_calls",
                          "text_encoder_calls"), 1.0)  # fmt: skip
    one = {"label": name, "local": figure, "base": figure, "new": figure, "hm": figure, "domains": {name: figure},
           "tuned": {}, "left_out": name, "query_curve": [[1, 0.5], [2, 0.6]], **cost,
           "runs": [{"seed": 0, "local": 0.5, "base": 0.5, "new": 0.5, "hm": 0.5}]}  # fmt: skip
    return {"task": name, "data": name, "backbone": name, "seeds": [0, 1], "partition_seeds": [0], "rounds": 1,
            "shots": 1, "held_out": [name], "methods": dict.fromkeys(names, one)}  # fmt: skip


def test_comparisons(name: str) -> None:
    summary = summary_of([name])
    assert not controls(comparison_markdown(summary))
    assert not controls(shown(*comparison_tables(summary)))


def test_pictures_and_page_of_a_comparison(tmp_path: Path) -> None:
    write_comparison(summary_of([name for name in NAMES.values() if len(name) < 100][:6]), tmp_path)
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert not controls(page)
    assert r"$\bad$" in page
    assert (tmp_path / "queries.png").stat().st_size > 1_000


def test_curves_of_personal_prompts(name: str) -> None:
    row = {"alpha": 0.0, "val": 0.5, "local": 0.5, "local_std": 0.1, "base": 0.4, "new": 0.4, "hm": 0.4}
    clients = [{"client": 0, "name": name, "alpha": 0.0, "why": name}]
    curve = {"name": name, "round": 2, "space": "prompt", "training": None, "rows": [row, {**row, "alpha": None}],
             "clients": clients}  # fmt: skip
    assert not controls(curve_markdown(curve))


def test_the_page_of_a_run(make_run: Callable[..., RunDirectory]) -> None:
    run, counts = make_run(), [1] * len(NAMES)
    clients = [
        {"client": k, "name": name, "domain": name, "train": counts, "val": counts, "test": counts}
        for k, name in enumerate(NAMES.values())
    ]
    run.events.write("evaluation", stage="promptfl", name=NAMES["60 words"], local=[
        {"client": k, "name": name, "accuracy": 0.5} for k, name in enumerate(NAMES.values())])  # fmt: skip
    run.write_json("partition.json", {"classes": list(NAMES.values()), "clients": clients})
    page = write_report(run).read_text(encoding="utf-8")
    assert not controls(page)
    assert "<script>alert" not in page
    assert "[/b]" in page
    assert r"$\bad$" in page


def test_notes_and_progress(name: str) -> None:
    for live in (LiveProgress, LiveComparison):
        console = output()
        console.file, console.width = io.StringIO(), 2_000
        with live(console) as progress:
            progress.note(f"note: {name}")
        text = console.file.getvalue()
        assert not controls(text)
        assert "[red]bold" in text or "[red]bold" not in name


def test_lines_of_the_log(name: str, make_run: Callable[..., RunDirectory]) -> None:
    import logging

    run = make_run()
    with run.attach_log():
        logging.getLogger("promptfed.x").warning("class %s is left out", name)
    assert not controls((run.path / "run.log").read_text(encoding="utf-8"))
