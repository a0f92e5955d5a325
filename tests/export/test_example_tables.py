"""Examples in a column of a CSV file."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptfed.errors import ConfigError
from promptfed.export.example_tables import is_table, table_column


def test_the_first_column_that_fits_is_taken(tmp_path: Path) -> None:
    table = tmp_path / "rows.CSV"
    table.write_text('id,sentence,text\n1,no,"a, b"\n2,no,c\n')
    assert is_table(str(table))
    assert table_column(table, "text") == ["a, b", "c"]
    assert table_column(table, "question") == ["a, b", "c"]
    assert not any(map(is_table, ("none.csv", str(tmp_path), "Where is it?", "x" * 5000 + ".csv", "a\0.csv")))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name,label\na.png,cat\n", "has no column 'path' \\(it has name, label\\)"),
        ("", "has no column 'path' \\(it has none\\)"),
        ("path,label\na.png,cat\n,dog\n", "line 3 has no path"),
        ('path\n"a\n', "a double quote is not closed"),
    ],
)
def test_what_is_no_such_table_is_one_line(tmp_path: Path, content: str, said: str) -> None:
    table = tmp_path / "rows.csv"
    table.write_text(content)
    with pytest.raises(ConfigError, match=said):
        table_column(table, "path")
