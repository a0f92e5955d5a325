"""The rows of what a run promises."""

from __future__ import annotations

from promptfed.report.privacy_rows import statement_rows


def test_rows_have_names_that_a_reader_knows() -> None:
    found = {"epsilon": 7.99987, "epsilon_rdp": 8.8754, "epsilon_limit": 8.0, "not_covered": ["a", "b"]}
    assert statement_rows(found) == [
        ("epsilon", "8"),
        ("epsilon by Renyi DP, a looser bound", "8.875"),
        ("not covered", "a"),
        ("not covered", "b"),
    ]
    assert statement_rows(None) == []
