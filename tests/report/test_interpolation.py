"""The curve of `promptfed personalize` as table, page and picture."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from promptfed.report.html import write_report
from promptfed.report.interpolation import curve_cells, curve_figure, curve_markdown, curve_table
from promptfed.runs.directory import RunDirectory


def row(alpha: float | None, local: float, new: float | None) -> dict[str, float | None]:
    hm = None if new is None else 0.44
    return {"alpha": alpha, "val": 0.5, "local": local, "local_std": 0.1, "base": 0.4, "new": new, "hm": hm}


@pytest.fixture
def curve() -> dict[str, object]:
    return {
        "name": "PromptFL", "round": 20, "method": "finetune", "space": "prompt", "alphas": [0.0, 1.0],
        "training": {"lr": 0.01, "epochs": 10, "l2_to_global": 0.5},
        "rows": [row(0.0, 0.8, 0.3), row(1.0, 0.9, 0.2), row(None, 0.95, 0.25)],
        "clients": [
            {"client": 0, "name": "<a>|b", "alpha": 0.0, "why": "so", "val": [0.1], "local": []},
            {"client": 1, "name": "c", "alpha": 1.0, "why": "the <best>", "val": [0.1], "local": []},
        ],
    }  # fmt: skip


def test_cells_are_percent_and_the_last_row_is_each_clients_own(curve: dict[str, object]) -> None:
    columns, cells = curve_cells(curve)
    assert columns == ["val", "local", "base", "new", "HM"]
    assert cells[0] == ("0", ("50.0", "80.0 ± 10.0", "40.0", "30.0", "44.0"))
    assert cells[-1] == ("each client's own", ("50.0", "95.0 ± 10.0", "40.0", "25.0", "44.0"))


def test_table_and_page_say_how_it_was_made(curve: dict[str, object]) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(curve_table(curve))
    for text in (console.export_text(), curve_markdown(curve)):
        for said in ("95.0 ± 10.0", "prompt space", "10 epochs at learning rate 0.01", "pull to the shared prompt 0.5"):
            assert said in " ".join(text.split())
    assert "| <a>\\|b | 0 | so |" in curve_markdown(curve)


def test_without_new_classes_or_training(curve: dict[str, object]) -> None:
    curve["rows"], curve["training"] = [row(0.0, 0.8, None), row(None, 0.8, None)], None
    columns, _ = curve_cells(curve)
    assert "new" not in columns
    assert "epochs" not in curve_markdown(curve)
    [axes] = curve_figure(curve).axes
    assert "new" not in [line.get_label() for line in axes.lines]


def test_the_picture_has_the_curve_and_a_mark_for_the_chosen(curve: dict[str, object]) -> None:
    [axes] = curve_figure(curve).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["local"].get_ydata()) == pytest.approx([80.0, 90.0])
    marks = {tuple(line.get_xydata()[0]) for line in axes.lines if len(line.get_xdata()) == 1}
    assert marks == {(0.5, 95.0), (0.5, 40.0), (0.5, 25.0)}


def test_the_report_shows_it_escaped(make_run: Callable[..., RunDirectory], curve: dict[str, object]) -> None:
    run = make_run()
    assert "Personalisation" not in write_report(run).read_text()
    (run.path / "personalized").mkdir()
    run.write_json("personalized/curve.json", curve)
    page = write_report(run).read_text()
    assert "Personalisation</h2>" in page
    assert "95.0 ± 10.0" in page
    assert "&lt;a&gt;|b" in page
    assert "the &lt;best&gt;" in page
    assert "<best>" not in page
