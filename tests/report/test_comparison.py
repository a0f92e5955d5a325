"""A comparison's tables and plot, from a made-up summary."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from matplotlib.text import Text
from rich.console import Console

from promptfed.report.comparison import comparison_markdown, comparison_tables, left_out
from promptfed.report.comparison_page import write_comparison
from promptfed.report.comparison_plot import accuracy_by_queries, trade_off


def method(local: float, base: float, new: float | None, std: float | None = 0.02, **domains: float) -> dict[str, Any]:
    def spread(mean: float | None) -> dict[str, float | None] | None:
        return None if mean is None else {"mean": mean, "std": std}

    hm = None if new is None else 3 / (1 / local + 1 / base + 1 / new)
    return {
        "label": "A <b>name</b>", "left_out": "", "tuned": {}, "local": spread(local), "base": spread(base),
        "new": spread(new), "hm": spread(hm), "domains": {name: spread(value) for name, value in domains.items()},
        "bytes_up_a_round": 1536, "bytes_down_a_round": 99, "bytes": 2_000_000, "seconds": 12.34,
        "image_encoder_calls": 0, "text_encoder_calls": 1234.0,
        "runs": [{"seed": s, "local": local, "base": base, "new": new, "hm": hm} for s in (0, 1)],
    }  # fmt: skip


def summary(**methods: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": "clip-fewshot", "data": "icons", "backbone": "tiny", "rounds": 20, "shots": 8, "seeds": [0, 1],
        "partition_seeds": [0, 1], "held_out": ["sketch"], "methods": methods,
    }  # fmt: skip


NOTHING = {"label": "B", "left_out": "does not fit: no ViT", "tuned": {}, "runs": []}


def test_markdown_is_exact() -> None:
    table = comparison_markdown(summary(zero_shot=method(0.5, 0.4, 0.6), kgcoop=method(0.7, 0.3, 0.2)))
    lines = table.splitlines()
    assert lines[2] == ("Data icons, backbone tiny, 20 rounds, 8 shots, seeds 0, 1, partition seeds 0, 1.")
    assert lines[6:10] == [
        "| | local | base | new | HM |",
        "|---|---:|---:|---:|---:|",
        "| `zero_shot` | 50.0 ± 2.0 | **40.0 ± 2.0** | **60.0 ± 2.0** | **48.6 ± 2.0** |",
        "| `kgcoop` | **70.0 ± 2.0** | 30.0 ± 2.0 | 20.0 ± 2.0 | 30.7 ± 2.0 |",
    ]
    assert "| `kgcoop` | 1.5 kB | 99 B | 2.0 MB | 12.3 | 0 | 1,234 |" in lines


def test_one_seed_has_no_deviation_and_nothing_new_has_no_column() -> None:
    table = comparison_markdown(summary(promptfl=method(0.5, 0.4, None, std=None)))
    assert "| | local | base |" in table
    assert "| `promptfl` | **50.0** | **40.0** |" in table
    assert "harmonic" not in table


def black(queries: int, **changed: Any) -> dict[str, Any]:
    """A method on a black box; one that was allowed ``queries`` (0: it has no such option)."""
    asked = {
        "queries_a_round": 100, "oracle_queries": 5000, "oracle_calls": 4000, "oracle_cache_hits": 1000, "usd": 0.0,
        "query_curve": [[200, 0.5], [400, 0.75]], "options": {"queries": queries} if queries else {},
    }  # fmt: skip
    return {**method(0.5, 0.4, None), **asked, **changed}


def test_a_black_box_has_queries_and_calls_among_the_costs_and_the_budget_in_the_caption() -> None:
    found = {**summary(zero_shot=black(0), fedbpt=black(160), fedng=black(160)), "oracle": "minilm"}
    table = comparison_markdown(found)
    assert "oracle minilm" in table
    assert "| | up | down | seconds | queries | all | calls |" in table
    assert "| `fedbpt` | 1.5 kB | 99 B | 12.3 | 100 | 5,000 | 4,000 |" in table
    assert "The budget is the same for all methods: at most 160 a client and round." in table
    assert "![Accuracy against queries](queries.png)" in table
    paid = comparison_markdown(summary(fedbpt=black(160, usd=0.5)))
    assert "| `fedbpt` | 1.5 kB | 99 B | 12.3 | 100 | 5,000 | 4,000 | 0.5000 |" in paid
    unequal = comparison_markdown(summary(fedbpt=black(160), fedng=black(320)))
    assert "differ: fedbpt 160, fedng 320; --set method.queries=N" in unequal


def test_accuracy_against_queries_is_a_line_a_method_and_zero_shot_a_level(tmp_path: Any) -> None:
    found = summary(zero_shot=black(0, query_curve=[[120, 0.6]]), fedbpt=black(160))
    figure = accuracy_by_queries(found)
    assert figure is not None
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(lines["fedbpt"].get_xdata()) == [200, 400]
    assert list(lines["fedbpt"].get_ydata()) == pytest.approx([50, 75])
    assert list(lines["zero_shot"].get_ydata()) == pytest.approx([60, 60])
    assert accuracy_by_queries(summary(promptfl=method(0.5, 0.4, 0.6))) is None
    names = [path.name for path in write_comparison(found, tmp_path)]
    assert names == ["comparison.json", "comparison.md", "comparison.png", "queries.png", "comparison.html"]
    page = (tmp_path / "comparison.html").read_text()
    assert "Accuracy against queries" in page
    assert "data:image/" not in page


def test_domains_are_a_table_of_their_own_and_the_held_out_one_is_marked() -> None:
    lines = comparison_markdown(summary(promptfl=method(0.5, 0.4, None, photo=0.8, sketch=0.25))).splitlines()
    assert "| | photo | sketch * |" in lines
    assert "| `promptfl` | **80.0 ± 2.0** | **25.0 ± 2.0** |" in lines


def test_what_is_missing_is_said_with_the_reason() -> None:
    partly = method(0.5, 0.4, 0.6)
    partly["runs"] = partly["runs"][:1]
    found = summary(zero_shot=method(0.5, 0.4, 0.6), maple=NOTHING, slow=partly)
    assert left_out(found) == ["maple: does not fit: no ViT", "slow on 1 of 2 seeds: not run yet"]
    assert "maple: does not fit: no ViT" in comparison_markdown(found)


def test_the_terminal_keeps_whole_names_at_100_columns() -> None:
    name = "a_method_with_a_long_name"
    console = Console(file=io.StringIO(), width=100)
    for table in comparison_tables(summary(**{name: method(0.5, 0.4, 0.6, photo=0.2, sketch=0.1)})):
        console.print(table)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count(name) == 3
    assert "50.0 ± 2.0" in said
    assert max(map(len, said.splitlines())) <= 100


@pytest.mark.parametrize("width", [80, 100])
def test_the_terminal_keeps_whole_figures_where_a_method_has_a_note(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    below = {**method(0.5, 0.4, 0.6), "local_all": {"mean": 0.45, "std": 0.02}, "below_zero_shot": ["base", "new"]}
    for table in comparison_tables(summary(zero_shot=method(0.5, 0.4, 0.6), local_only=below)):
        console.print(table)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in said
    assert all(said.count(f"{figure} ± 2.0") == 2 for figure in ("50.0", "40.0", "60.0"))
    assert "45.0 ± 2.0" in said
    assert max(map(len, said.splitlines())) <= width


@pytest.mark.parametrize(("new", "axis"), [(0.6, "new"), (None, "base")])
def test_the_plot_has_a_named_point_for_each_method(new: float | None, axis: str) -> None:
    names = [f"method_{k}" for k in range(12)]
    points = {name: method(0.5 + 0.01 * (k % 3), 0.4, new and new - 0.01 * (k % 2)) for k, name in enumerate(names)}
    figure = trade_off(summary(zero_shot=method(0.5, 0.4, new), **points, maple=NOTHING))
    assert figure is not None
    axes = figure.axes[0]
    assert axes.get_ylabel().startswith(axis)
    assert sorted(text.get_text() for text in axes.texts) == sorted([*names, "zero_shot"])
    drawn = {(round(float(x), 6), round(float(y), 6)) for c in axes.containers for x, y in [c[0].get_xydata()[0]]}
    assert (50.0, 60.0 if new else 40.0) in drawn
    figure.draw_without_rendering()
    frame = figure.bbox
    for text in axes.texts:
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1, f"{text.get_text()} leaves the picture"


def test_names_do_not_cover_each_other() -> None:
    points = {f"method_{k}": method(0.5 + 0.004 * k, 0.4, 0.6) for k in range(8)}
    figure = trade_off(summary(**points))
    assert figure is not None
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]  # without the lines to the points
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_all_files_are_written_and_the_page_escapes(tmp_path: Any) -> None:
    found = summary(promptfl=method(0.5, 0.4, 0.6), maple=NOTHING)
    paths = write_comparison(found, tmp_path)
    assert [path.name for path in paths] == [f"comparison.{s}" for s in ("json", "md", "png", "html")]
    assert json.loads(paths[0].read_text()) == found
    page = paths[3].read_text()
    assert "A &lt;b&gt;name&lt;/b&gt;" in page
    assert "does not fit: no ViT" in page
    assert page.index("<style>") < page.index("--ink")


def test_nothing_finished_is_no_plot_but_a_page(tmp_path: Any) -> None:
    paths = write_comparison(summary(maple=NOTHING), tmp_path)
    assert "comparison.png" not in {path.name for path in paths}
    assert "No run has finished yet" in (tmp_path / "comparison.html").read_text()
