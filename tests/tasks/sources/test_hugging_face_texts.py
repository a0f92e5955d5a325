from __future__ import annotations

from collections import Counter

import pytest

from promptfed.errors import ConfigError, DataError
from promptfed.tasks.sources import hugging_face_texts
from promptfed.tasks.sources.tables import Columns

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def saved(tmp_path):
    """train, test and an unsupervised split; the label is a ClassLabel, one training row has none."""
    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["so_so", "good"]),
            "lang": datasets.ClassLabel(names=["en", "de"]),
            "ids": datasets.Sequence(datasets.Value("int32")),
        }
    )

    def table(labels):
        rows = range(len(labels))
        columns = {"sentence": [f"s{k}" for k in rows], "label": labels, "lang": [k % 2 for k in rows]}
        return datasets.Dataset.from_dict({**columns, "ids": [[k] for k in rows]}, features=features)

    parts = {"train": table([0, 1, -1, 1]), "test": table([1, 0]), "unsupervised": table([-1, -1])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_class_labels_are_names_and_rows_without_one_are_left_out(saved):
    source = hugging_face_texts.source(str(saved), Columns(text="sentence", domain="lang"))
    assert source.classes == ("good", "so_so")
    found = [(s.item.text, source.classes[s.label], s.domain, s.split) for s in source.samples]
    assert found == [
        ("s0", "so_so", "en", "train"),
        ("s1", "good", "de", "train"),
        ("s3", "good", "de", "train"),
        ("s0", "good", "en", "test"),
        ("s1", "so_so", "de", "test"),
    ]
    assert source.samples[2].item.name == f"hf:{saved}:train[3]"


def test_one_named_split_is_data_without_a_split(saved):
    source = hugging_face_texts.source(f"{saved}:test", Columns(text="sentence"))
    assert Counter(s.split for s in source.samples) == {"": 2}
    with pytest.raises(ConfigError, match=r"no split 'exam': it has train, test, unsupervised"):
        hugging_face_texts.source(f"{saved}:exam", Columns(text="sentence"))


def test_a_single_table_with_plain_labels(tmp_path):
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [10, 9]})
    table.save_to_disk(str(tmp_path / "one"))
    source = hugging_face_texts.source(str(tmp_path / "one"), Columns())
    assert [(source.classes[s.label], s.split) for s in source.samples] == [("10", ""), ("9", "")]


def test_a_missing_column_names_those_that_there_are(saved):
    with pytest.raises(DataError, match=r"train\[0\] has no column 'text'; it has sentence, label, lang \("):
        hugging_face_texts.source(str(saved), Columns())


def test_not_there_and_offline():
    with pytest.raises(DataError, match="cannot load hf:nobody/nothing-of-the-kind"):
        hugging_face_texts.source("nobody/nothing-of-the-kind", Columns())
