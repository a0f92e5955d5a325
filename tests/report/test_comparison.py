"""A comparison's tables and plot, from a made-up summary."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from matplotlib.text import Text
from rich.console import Console

from promptfed.report.comparison import comparison_markdown, comparison_tables, left_out, write_comparison
from promptfed.report.comparison_plot import trade_off


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


def test_one_seed_has_no_deviation_and_nothing_new_is_a_dash() -> None:
    table = comparison_markdown(summary(promptfl=method(0.5, 0.4, None, std=None)))
    assert "| `promptfl` | **50.0** | **40.0** | - | - |" in table


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
