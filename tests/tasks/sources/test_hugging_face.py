from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from promptfed.errors import ConfigError, DataError
from promptfed.tasks.sources import load_source

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def saved(make_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """Two splits saved to disk: 6 training images and 4 test images of two classes, one of them broken."""
    root = make_folder({"a": 10})
    files = sorted((root / "a").iterdir())
    (broken := root / "broken.png").write_text("no picture")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "sea_lion"])})

    def table(paths: list[Path]) -> object:
        rows = [{"bytes": p.read_bytes(), "path": None} for p in paths]
        return datasets.Dataset.from_dict({"img": rows, "label": [i % 2 for i in range(len(paths))]}, features=features)

    target = tmp_path / "saved"
    datasets.DatasetDict({"train": table([*files[:5], broken]), "test": table(files[6:])}).save_to_disk(str(target))
    return target


def test_saved_data_set_with_splits(saved: Path, tmp_path: Path) -> None:
    source = load_source(f"hf:{saved}")
    assert source.classes == ("cat", "sea lion")
    assert Counter((s.split, s.label) for s in source.samples) == {
        ("train", 0): 3,
        ("train", 1): 2,
        ("test", 0): 2,
        ("test", 1): 2,
    }
    assert source.skipped == (f"hf:{saved}:train[5]",)
    item = source.samples[0].item
    assert item.content_id() == hashlib.sha256((tmp_path / "pictures" / "a" / "000.png").read_bytes()).hexdigest()
    assert (item.load().mode, item.load().size) == ("RGB", (6, 6))


def test_one_named_split_is_data_without_a_split(saved: Path) -> None:
    source = load_source(f"hf:{saved}:test")
    assert Counter(s.split for s in source.samples) == {"": 4}
    with pytest.raises(ConfigError, match=r"no split 'exam': it has train, test"):
        load_source(f"hf:{saved}:exam")


def test_local_image_folder(make_folder: Callable[..., Path]) -> None:
    root = make_folder({"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 2}, "folder")
    source = load_source(f"hf:{root}")
    assert source.classes == ("cat", "dog")
    assert Counter(s.split for s in source.samples) == {"train": 6, "test": 4}
    assert len({s.item.content_id() for s in source.samples}) == 10


def test_not_there_and_offline_names_the_folder_source() -> None:
    with pytest.raises(DataError, match=r"cannot load hf:nobody/nothing-of-the-kind .*offline, use folder:PATH"):
        load_source("hf:nobody/nothing-of-the-kind")


def test_data_without_labels(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(str(tmp_path / "texts"))
    with pytest.raises(DataError, match="has no image column, only text"):
        load_source(f"hf:{tmp_path / 'texts'}")
