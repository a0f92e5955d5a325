"""CSV files as users and their spreadsheets write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptfed.errors import DataError, FormatError
from promptfed.readers.csv_table import read_table
from promptfed.tasks.sources.csv_file import read_rows

PLAIN = "path,label,client\na.png,cat,0\nb.png,dog,1\n"
ROWS = [{"path": "a.png", "label": "cat", "client": "0"}, {"path": "b.png", "label": "dog", "client": "1"}]


def written(folder: Path, text: str | bytes) -> Path:
    (folder / "table.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / "table.csv"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.rstrip("\n"),
        PLAIN.replace("\n", "\n\n"),
        "\ufeff" + PLAIN,
        PLAIN.encode("utf-16"),
        PLAIN.replace("path,label,client", "Path, LABEL ,Client"),
        PLAIN.replace("cat", '"cat"').replace(",1", ', "1"'),
        PLAIN.replace("label,client", '"label","client"'),
    ],
)
def test_a_table_reads_the_same_however_it_was_saved(tmp_path: Path, text: str | bytes) -> None:
    columns, rows = read_table(written(tmp_path, text), 1000)
    assert columns == ["path", "label", "client"]
    assert [row for _, row in rows] == ROWS


def test_rows_know_their_line_and_short_rows_have_empty_values(tmp_path: Path) -> None:
    _, rows = read_table(written(tmp_path, 'a,b\n\n\n"two\nlines",1\nshort\n'), 1000)
    assert rows == [(5, {"a": "two\nlines", "b": "1"}), (6, {"a": "short", "b": ""})]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.png,cat, Egyptian,0\n", "line 4 has 4 values, and its first line names 3 columns: put a value that holds"),
        ("a.png,cat,0,\n", "line 4 has 4 values"),
        ("a.png,sea, lion, old,0\n", "line 4 has 5 values"),
        ('"a.png,cat,0\nc.png,dog,1\n', "a double quote is not closed"),
        ('a.png,"cat"fish,0\n', "line 4: "),
    ],
)
def test_rows_that_would_shift_or_vanish_are_refused(tmp_path: Path, rows: str, message: str) -> None:
    file = written(tmp_path, PLAIN + rows)
    with pytest.raises(FormatError, match=message):
        read_table(file, 1000)
    with pytest.raises(DataError, match=message):
        read_rows(file)


@pytest.mark.parametrize("first", ["path,label,client,label", "path,client,label, Label", "path,label,client,Path"])
def test_a_column_that_stands_twice_is_refused(tmp_path: Path, first: str) -> None:
    with pytest.raises(DataError, match=r"has column '(label|path)' twice: keep one"):
        read_rows(written(tmp_path, PLAIN.replace("path,label,client", first)))


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_shown(tmp_path: Path, separator: str) -> None:
    with pytest.raises(DataError, match=r"first line must be path,label,client and is 'path.+label.+client'"):
        read_rows(written(tmp_path, PLAIN.replace(",", separator)))
