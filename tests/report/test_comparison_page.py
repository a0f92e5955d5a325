"""The page of a comparison: intervals, tests, Pareto front, links, warnings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from promptfed.comparison.differences import NO_TEST, with_differences
from promptfed.report.comparison_charts import pareto, trade_off_chart
from promptfed.report.comparison_differences import comparison_warnings, difference_tables, verdict
from promptfed.report.comparison_page import write_page

SEEDS = (0, 1, 2)


def entry(bases: tuple[float, ...], size: float, **more: Any) -> dict[str, Any]:
    """A method with these base accuracies, one a seed, that sends ``size`` bytes a run."""
    mean = sum(bases) / len(bases)
    spread = {"mean": mean, "std": 0.01 if len(bases) > 1 else None}
    rows = [
        {"run": f"m/seed-{seed}", "seed": seed, "local": base, "local_all": base, "base": base, "new": None, "hm": None}
        for seed, base in zip(SEEDS, bases, strict=False)
    ]
    return {
        "label": "A <b>name</b>", "left_out": "", "tuned": {}, "local": spread, "local_all": spread, "base": spread,
        "new": None, "hm": None, "domains": {}, "bytes_up_a_round": 10, "bytes_down_a_round": 10, "bytes": size,
        "seconds": 1.0, "image_encoder_calls": 0, "text_encoder_calls": 0, "intervals": {}, "runs": rows, **more,
    }  # fmt: skip


def summary(seeds: int = 3, **methods: dict[str, Any]) -> dict[str, Any]:
    return with_differences(
        {
            "task": "clip-fewshot", "data": "icons", "backbone": "tiny", "rounds": 2, "shots": 8,
            "seeds": list(SEEDS[:seeds]), "partition_seeds": list(SEEDS[:seeds]), "held_out": [], "methods": methods,
            "notes": ["few test items"],
        }
    )  # fmt: skip


@pytest.fixture
def found() -> dict[str, Any]:
    return summary(
        zero_shot=entry((0.4, 0.4, 0.4), 0),
        promptfl=entry((0.5, 0.6, 0.7), 1000, below_zero_shot=["new"]),
        kgcoop=entry((0.4, 0.4, 0.7), 2000),
        big=entry((0.8, 0.85, 0.9), 500_000),
        absent={"label": "B", "left_out": "does not fit: no ViT", "tuned": {}, "runs": []},
    )


def test_differences_are_shown_with_interval_p_and_the_names_of_test_and_correction(found: dict[str, Any]) -> None:
    first, second = difference_tables(found)
    assert (first.reference, second.reference) == ("promptfl", "zero_shot")
    assert first.columns == ["local", "local (all classes)", "base"]
    row = next(row for row in first.rows if row.label == "kgcoop")
    assert row.cells[2] == "\u221210.0"
    assert re.fullmatch(r"\[\u221234\.8, \+14\.8\] p 0\.\d\d", row.intervals[2])
    assert "paired t-test over seeds, Holm's correction over the methods of a column" in first.caption


def test_a_clear_difference_is_marked(found: dict[str, Any]) -> None:
    row = next(row for row in difference_tables(found)[1].rows if row.label == "big")
    assert row.best == (True, True, True)  # 45 points, deviation 5: t = 15.6 with two degrees of freedom
    assert "big has the highest base, 85.0 % (95 % interval" in verdict(found)
    assert "It is 45.0 points above zero_shot, a clear difference" in verdict(found)


def test_what_no_other_beats_is_on_the_front(found: dict[str, Any]) -> None:
    front = pareto({name: m for name, m in found["methods"].items() if m["runs"]})
    assert front is not None
    assert front.front == ("zero_shot", "promptfl", "big")
    assert front.chart is not None
    assert "Not dominated: zero_shot, promptfl, big." in front.chart.description
    assert "promptfl *" in front.chart.body
    assert "kgcoop *" not in front.chart.body
    assert "zero_shot" not in front.chart.body  # it sends nothing: a level, no point on a log axis


def test_warnings_say_what_is_below_left_out_and_how_many_seeds(found: dict[str, Any]) -> None:
    lines = comparison_warnings(found)
    assert lines[0].startswith("Below zero-shot")
    assert lines[0].endswith(": promptfl (new).")
    assert "Left out: absent: does not fit: no ViT." in lines
    assert any("There are 3 seeds" in line for line in lines)
    assert lines[-1] == "Few test items."


def test_one_seed_says_that_no_test_can_be_made(tmp_path: Path) -> None:
    one = summary(1, zero_shot=entry((0.4,), 0), promptfl=entry((0.5,), 1000))
    assert difference_tables(one) == []
    assert NO_TEST in write_page(one, tmp_path).read_text()
    assert any("There is one seed" in line for line in comparison_warnings(one))


def test_the_page_is_whole_and_escaped_and_links_only_what_is_there(found: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "m" / "seed-1").mkdir(parents=True)
    (tmp_path / "m" / "seed-1" / "report.html").write_text("x")
    page = write_page(found, tmp_path).read_text()
    assert set(re.findall(r'href="(m/[^"]*)"', page)) == {"m/seed-1/report.html"}
    assert "A &lt;b&gt;name&lt;/b&gt;" in page
    assert not re.search(r'(src|href)="https?:', page)
    assert re.findall(r"<th(?! scope=)", page.replace("<thead", "")) == []
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_a_link_out_of_the_folder_is_none(found: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "report.html").write_text("x")
    home = tmp_path / "home"
    home.mkdir()
    found["methods"]["big"]["runs"][0]["run"] = "../elsewhere"
    (home / "linked").symlink_to(tmp_path / "elsewhere")
    found["methods"]["big"]["runs"][1]["run"] = "linked"
    assert "report.html" not in write_page(found, home).read_text()


def test_nothing_finished_has_no_charts(tmp_path: Path) -> None:
    nothing = summary(absent={"label": "B", "left_out": "", "tuned": {}, "runs": []})
    assert (pareto({}), trade_off_chart({}), verdict(nothing)) == (None, None, "")
    assert "No run has finished yet" in write_page(nothing, tmp_path).read_text()
