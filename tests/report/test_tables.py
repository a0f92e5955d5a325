"""The table of results, in the terminal and as Markdown."""

import io
from typing import Any

from rich.console import Console

from promptfed.report.tables import percent, result_rows, results_markdown, results_table


def test_percent_has_one_decimal_and_a_dash_for_nothing() -> None:
    assert [percent(x) for x in (0.5312, 1.0, 0.0, None)] == ["53.1", "100.0", "0.0", "-"]


def test_markdown_is_exact(metrics: dict[str, Any]) -> None:
    table = results_markdown(metrics).splitlines()
    assert table[:5] == [
        "| | local | base | new | HM |",
        "|---|---:|---:|---:|---:|",
        '| zero-shot "a <b>photo</b> of [bold] a {}." | 50.0 ± 4.0 | 40.0 | 45.0 | 44.6 |',
        "| local-only | 75.0 ± 3.1 | 30.0 | 35.0 | 40.0 |",
        "| PromptFL | 70.0 ± 2.0 | 60.0 | - | - |",
    ]
    assert "harmonic mean" in table[6]


def test_best_of_each_column_is_marked(metrics: dict[str, Any]) -> None:
    assert [row.best for row in result_rows(metrics)] == [
        (False, False, True, True),
        (True, False, False, False),
        (False, True, False, False),
    ]


def test_terminal_shows_brackets_of_a_template_as_they_are(metrics: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(results_table(metrics))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "of [bold] a {}." in text
    assert "75.0 ± 3.1" in text
    assert "harmonic mean" in text


def test_partial_metrics_give_the_rows_there_are(metrics: dict[str, Any]) -> None:
    assert result_rows({}) == []
    only = {"zero_shot": metrics["zero_shot"], "method": {**metrics["method"], "local_std": None}}
    rows = result_rows(only)
    assert [(row.label, row.cells[0]) for row in rows] == [("zero-shot", "50.0 ± 4.0"), ("PromptFL", "70.0")]
    assert rows[0].note == ""


def test_a_baseline_run_as_the_method_is_one_row(metrics: dict[str, Any]) -> None:
    metrics["method"] = metrics["local_only"]
    assert [row.label for row in result_rows(metrics)] == ["zero-shot", "local-only"]


def test_a_bar_in_a_template_does_not_break_the_markdown(metrics: dict[str, Any]) -> None:
    metrics["template"] = "a|b {}"
    assert '"a\\|b {}"' in results_markdown(metrics)
