from __future__ import annotations

from collections import Counter

import pytest

from promptfed.errors import DataError
from promptfed.tasks.sources import tsv
from promptfed.tasks.sources.tables import Columns


def test_one_file_has_no_splits_and_quotes_mean_nothing(tmp_path):
    (tmp_path / "test.tsv").write_text('text\tlabel\n"Well," he said\tgood\nit\'s 5" long\tbad\n')
    source = tsv.source(str(tmp_path / "test.tsv"), Columns())
    assert [(s.item.text, s.item.name, s.split) for s in source.samples] == [
        ('"Well," he said', "test.tsv:2", ""),
        ("it's 5\" long", "test.tsv:3", ""),
    ]


def test_a_folder_has_splits(tmp_path):
    for name, lines in (("train", 3), ("dev", 2), ("test", 1), ("notes", 9)):
        rows = "".join(f"{name} {k}\tb\n" for k in range(lines))
        (tmp_path / f"{name}.tsv").write_text(f"sentence\tlabel\n{rows}x\ta\n")
    source = tsv.source(str(tmp_path), Columns(text="sentence"))
    assert Counter(s.split for s in source.samples) == {"train": 4, "val": 3, "test": 2}


def test_what_is_wrong_with_a_file(tmp_path):
    with pytest.raises(DataError, match=r"does not exist: give a .tsv file, or a folder with train.tsv"):
        tsv.source(str(tmp_path / "none.tsv"), Columns())
    with pytest.raises(DataError, match=r"holds none of train.tsv, dev.tsv"):
        tsv.source(str(tmp_path), Columns())
    (tmp_path / "a.tsv").write_text("text\tlabel\nx\ty\tz\n")
    with pytest.raises(DataError, match=r"a.tsv:2 has more cells than the header"):
        tsv.source(str(tmp_path / "a.tsv"), Columns())
    (tmp_path / "a.tsv").write_text("text\tlabel\nx\n")
    with pytest.raises(DataError, match=r"a.tsv:2: column 'label' is empty"):
        tsv.source(str(tmp_path / "a.tsv"), Columns())
    (tmp_path / "a.tsv").write_bytes(b"text\tlabel\n\xff\xfe\ty\n")
    with pytest.raises(DataError, match=r"cannot read .*a.tsv"):
        tsv.source(str(tmp_path / "a.tsv"), Columns())
