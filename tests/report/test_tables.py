"""The table of results, in the terminal and as Markdown."""

import io
from typing import Any

from rich.console import Console

from promptfed.report.tables import (
    best_cells,
    cross_data_table,
    domain_rows,
    domains_table,
    percent,
    result_rows,
    results_markdown,
    results_table,
)


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


def test_questions_have_no_classes_in_the_caption(metrics: dict[str, Any]) -> None:
    assert "its own classes" in results_markdown({**metrics, "examples": "texts"})
    said = results_markdown({**metrics, "examples": "questions"})
    assert "each client on its own test questions" in said
    assert "own classes" not in said


def test_best_of_each_column_is_marked(metrics: dict[str, Any]) -> None:
    columns, rows = result_rows(metrics)
    assert columns == ["local", "base", "new", "HM"]
    assert [row.best for row in rows] == [
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
    assert result_rows({}) == ([], [])
    only = {"zero_shot": metrics["zero_shot"], "method": {**metrics["method"], "local_std": None}}
    _, rows = result_rows(only)
    assert [(row.label, row.cells[0]) for row in rows] == [("zero-shot", "50.0 ± 4.0"), ("PromptFL", "70.0")]
    assert rows[0].note == ""


def test_a_baseline_run_as_the_method_is_one_row(metrics: dict[str, Any]) -> None:
    metrics["method"] = metrics["local_only"]
    assert [row.label for row in result_rows(metrics)[1]] == ["zero-shot", "local-only"]


def test_columns_that_are_empty_in_every_row_are_left_out_of_table_and_caption(metrics: dict[str, Any]) -> None:
    for key in ("zero_shot", "local_only", "method"):
        metrics[key] |= {"new": None, "hm": None}
    columns, rows = result_rows(metrics)
    assert columns == ["local", "base"]
    assert [row.cells for row in rows] == [("50.0 ± 4.0", "40.0"), ("75.0 ± 3.1", "30.0"), ("70.0 ± 2.0", "60.0")]
    assert [row.best for row in rows] == [(False, False), (True, False), (False, True)]
    table = results_markdown(metrics)
    assert table.startswith("| | local | base |\n|---|---:|---:|\n")
    assert "harmonic mean" not in table
    console = Console(file=io.StringIO(), width=120)
    console.print(cross_data_table({"texts": metrics}))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "50.0 > 70.0" in said
    assert "HM" not in said


def test_a_bar_in_a_template_does_not_break_the_markdown(metrics: dict[str, Any]) -> None:
    metrics["template"] = "a|b {}"
    assert '"a\\|b {}"' in results_markdown(metrics)


DOMAINS = {"zero_shot": {"photo": 0.5, "sketch": 0.25}, "local_only": {"photo": 0.4, "sketch": 0.3}}


def test_domains_are_columns_and_the_held_out_one_is_marked(metrics: dict[str, Any]) -> None:
    metrics |= {"held_out": ["sketch"], "method": {**metrics["method"], "domains": {"photo": 0.9, "sketch": 0.2}}}
    for key, domains in DOMAINS.items():
        metrics[key]["domains"] = domains
    columns, rows = domain_rows(metrics)
    assert columns == ["photo", "sketch *"]
    assert [(row.label, row.cells) for row in rows] == [
        ("zero-shot", ("50.0", "25.0")),
        ("local-only", ("40.0", "30.0")),
        ("PromptFL", ("90.0", "20.0")),
    ]
    assert [row.best for row in rows] == [(False, False), (False, True), (True, False)]
    console = Console(file=io.StringIO(), width=100)
    console.print(domains_table(metrics))
    assert "sketch *" in console.file.getvalue()  # type: ignore[attr-defined]


def test_without_domains_there_are_no_columns(metrics: dict[str, Any]) -> None:
    assert domain_rows(metrics)[0] == []


def test_other_data_have_a_row_each_with_zero_shot_first(metrics: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(cross_data_table({"icons": metrics, "folder:[photos]": {**metrics, "zero_shot": metrics["method"]}}))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "50.0 > 70.0" in said
    assert "45.0 > -" in said
    assert "folder:[photos]" in said


def test_the_best_is_the_highest_number_and_ties_are_all_best() -> None:
    rows = [("9.5 ± 1.0", "-"), ("10.0 ± 0.1", "-"), ("10.0", "3.0")]
    assert best_cells(rows) == [(False, False), (True, False), (True, True)]


def test_intervals_flags_and_notes_stand_beside_the_figures(metrics: dict[str, Any]) -> None:
    metrics["local_only"] |= {"below_zero_shot": ["base", "HM"], "intervals": {"base": [0.25, 0.355]}}
    metrics |= {"new_classes": ["pink", "[cyan]"], "notes": ["few test items"]}
    _, rows = result_rows(metrics)
    assert [row.flag for row in rows] == ["", "below zero-shot: base, HM", ""]
    assert rows[1].intervals == ("", "[25.0, 35.5]", "", "")
    table = results_markdown(metrics)
    assert "| local-only (below zero-shot: base, HM) | 75.0 ± 3.1 | 30.0 [25.0, 35.5] | 35.0 | 40.0 |" in table
    assert "new: 2 classes held out, which no client trains on: pink, [cyan]" in table
    assert "note: few test items" in table
    console = Console(file=io.StringIO(), width=100)
    console.print(results_table(metrics))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "below zero-shot: base, HM" in shown
    assert "[25.0, 35.5]" in shown


def test_without_local_accuracy_there_is_a_dash_and_all_classes_have_a_column(metrics: dict[str, Any]) -> None:
    for key in ("zero_shot", "local_only", "method"):
        metrics[key] |= {"local": None, "local_std": None, "local_all": 0.25, "local_all_std": 0.05, "hm": None}
    columns, rows = result_rows(metrics)
    assert columns == ["local (all classes)", "base", "new"]
    assert rows[0].cells == ("25.0 ± 5.0", "40.0", "45.0")
    metrics["method"] |= {"local": 0.5, "local_std": 0.0}
    columns, rows = result_rows(metrics)
    assert columns[:2] == ["local", "local (all classes)"]
    assert [row.cells[0] for row in rows] == ["-", "-", "50.0 ± 0.0"]


def test_all_classes_have_no_column_where_they_repeat_local(metrics: dict[str, Any]) -> None:
    for key in ("zero_shot", "local_only", "method"):
        metrics[key]["local_all"] = metrics[key]["local"]
    assert result_rows(metrics)[0] == ["local", "base", "new", "HM"]
