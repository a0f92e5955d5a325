"""Rows become labelled texts, or an error that says which row is at fault."""

from __future__ import annotations

import pytest

from promptfed.errors import DataError
from promptfed.tasks.sources.tables import Columns, text_source

ROWS = [("f:2", {"text": " b ", "label": "no", "who": "x"}), ("f:3", {"text": "a", "label": "yes ", "who": "y"})]


def test_classes_are_sorted_and_texts_trimmed():
    source = text_source("name", {"train": ROWS[:1], "test": ROWS[1:]}, Columns(domain="who"))
    assert source.classes == ("no", "yes")
    found = [(s.item.text, s.item.name, s.label, s.domain, s.split) for s in source.samples]
    assert found == [("b", "f:2", 0, "x", "train"), ("a", "f:3", 1, "y", "test")]


def test_the_same_text_has_the_same_identity_wherever_it_stands():
    [one, other] = text_source("name", {"": [ROWS[0], ("g:9", ROWS[0][1])]}, Columns()).samples
    assert one.item.content_id() == other.item.content_id()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (Columns(text="body"), r"f:2 has no column 'body'; it has text, label, who \(--set task.text_column"),
        (Columns(label="class"), "f:2 has no column 'class'"),
        (Columns(domain="site"), r"f:2 has no column 'site'.* and task.domain_column name them"),
    ],
)
def test_a_missing_column(columns, said):
    with pytest.raises(DataError, match=said):
        text_source("name", {"": ROWS}, columns)


@pytest.mark.parametrize("nothing", [None, "", "  "])
def test_an_empty_cell(nothing):
    with pytest.raises(DataError, match="f:4: column 'label' is empty"):
        text_source("name", {"": [*ROWS, ("f:4", {"text": "c", "label": nothing})]}, Columns())
