"""Exported tables: LaTeX that compiles whatever names hold, CSV that is read back, Markdown."""

from __future__ import annotations

import csv
import io

import pytest

from promptfed.report.export_results import comparison_table, run_table
from promptfed.report.export_table import ExportTable, Figure, exported, latex_text

from .test_comparison_page import entry, summary


@pytest.fixture
def table() -> ExportTable:
    rows = [
        ("a_b", "50% & more_{x}$", [Figure(0.5, 0.01, (0.4, 0.6)), Figure(None)], {"seeds": 3}),
        ("=1+1", "B", [Figure(0.625, None, (0.5, 0.7), is_best=True, is_clear=True), Figure(0.25)], {"seeds": 1}),
    ]
    return ExportTable(["local (all)", "new"], rows, "In 100 %", "x_y")


def test_latex_is_exact(table: ExportTable) -> None:
    assert exported(table, "latex").splitlines()[1:] == [
        r"\begin{table}[t]",
        r"  \centering",
        r"  \caption{In 100 \%}",
        r"  \label{tab:x-y}",
        r"  \begin{tabular}{lrr}",
        r"    \toprule",
        r"    Method & local (all) & new \\",
        r"    \midrule",
        r"    50\% \& more\_\{x\}\$ & $50.0 \pm 10.0$ & -- \\",
        r"    B & $\mathbf{62.5}^{\ast}$ {\scriptsize $[50.0, 70.0]$} & $25.0$ \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]


def test_no_name_is_a_command_of_latex() -> None:
    said = latex_text('\\input{/etc/passwd} ~^<>|"#\n%')
    assert said.startswith(r"\textbackslash{}input\{/etc/passwd\} \textasciitilde{}\textasciicircum{}")
    assert "\n" not in said
    assert said.endswith(r"''\#\textbackslash{}x0a\%")
    assert latex_text("[6pt] of") == "{[}6pt{]} of", "behind the end of a row it would be a distance"


def test_csv_is_read_back_with_figures_as_shares_and_no_formulas(table: ExportTable) -> None:
    first, second = csv.DictReader(io.StringIO(exported(table, "csv")))
    assert (first["method"], first["label"], first["seeds"]) == ("a_b", "50% & more_{x}$", "3")
    assert float(first["local_all_mean"]) == 0.5
    assert (first["local_all_low"], first["local_all_high"], first["new_mean"]) == ("0.4", "0.6", "")
    assert second["method"] == "'=1+1"


def test_markdown_marks_the_best(table: ExportTable) -> None:
    lines = exported(table, "md").splitlines()
    assert lines[2:4] == ["| 50% & more_{x}$ | 50.0 ± 10.0 | - |", r"| B | **62.5**\* [50.0, 70.0] | 25.0 |"]


def test_a_comparison_has_intervals_over_seeds_and_marks_what_differs_from_promptfl() -> None:
    found = summary(
        zero_shot=entry((0.4, 0.4, 0.4), 0), promptfl=entry((0.5, 0.6, 0.7), 1000), big=entry((0.8, 0.9, 1.0), 5)
    )
    made = comparison_table(found)
    assert made.columns == ["local", "base"]  # the second repeats the first
    by_name = {name: cells for name, _, cells, _ in made.rows}
    assert by_name["promptfl"][1].half == pytest.approx(4.3027 * 0.1 / 3**0.5)
    assert [cells[0].is_best for cells in by_name.values()] == [False, False, True]
    assert "mean over 3 seeds ± its 95 % interval (t)" in made.caption
    assert "500" not in exported(made, "md")
    assert next(csv.DictReader(io.StringIO(exported(made, "csv"))))["seeds"] == "3"


def test_a_run_has_its_stages(metrics: dict[str, object]) -> None:
    made = run_table(metrics)
    assert [label for _, label, _, _ in made.rows] == ["zero-shot", "local-only", "PromptFL"]
    assert r"$\mathbf{60.0}$" in exported(made, "latex")
