from __future__ import annotations

from collections import Counter

import pytest

from promptfed.errors import DataError
from promptfed.tasks.sources import jsonl
from promptfed.tasks.sources.tables import Columns


@pytest.fixture
def write(tmp_path):
    def make(text, name="a.jsonl"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return make


def test_numbers_and_truth_values_are_labels_and_blank_lines_nothing(write):
    path = write('\ufeff{"text": "gr\\u00fcn", "label": 1}\n\n{"text": 7.5, "label": true, "more": [1]}\n')
    source = jsonl.source(path, Columns())
    assert source.classes == ("1", "true")
    assert [(s.item.text, s.item.name) for s in source.samples] == [("grün", "a.jsonl:1"), ("7.5", "a.jsonl:3")]


def test_a_folder_has_splits(tmp_path, write):
    for name in ("train", "validation", "test"):
        write('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n', f"{name}.jsonl")
    source = jsonl.source(str(tmp_path), Columns())
    assert Counter(s.split for s in source.samples) == {"train": 2, "val": 2, "test": 2}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{'text': 1}", r"a.jsonl:2 is not JSON \(.*write one object a line"),
        ('["a", "b"]', "a.jsonl:2 is a JSON list, not an object"),
        ("[" * 100_000, "a.jsonl:2 is not JSON"),
        ('{"text": "b"}', "a.jsonl:2 has no column 'label'"),
        ('{"text": "b", "label": null}', "a.jsonl:2: column 'label' is empty"),
    ],
)
def test_a_bad_line_is_named(write, line, said):
    with pytest.raises(DataError, match=said):
        jsonl.source(write('{"text": "a", "label": "x"}\n' + line + "\n"), Columns())


def test_no_such_file(tmp_path):
    with pytest.raises(DataError, match=r"give a .jsonl file, or a folder with train.jsonl"):
        jsonl.source(str(tmp_path / "none.jsonl"), Columns())
