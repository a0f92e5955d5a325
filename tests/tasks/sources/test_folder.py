from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from promptfed.errors import ConfigError, DataError
from promptfed.tasks.sources import load_source
from promptfed.tasks.sources.base import FileItem

MakeFolder = Callable[..., Path]


def test_class_folders(make_folder: MakeFolder) -> None:
    source = load_source(f"folder:{make_folder({'sea_lion': 2, 'cat': 3})}")
    assert source.classes == ("cat", "sea lion")
    assert Counter((s.label, s.domain, s.split) for s in source.samples) == {(0, "", ""): 3, (1, "", ""): 2}


def test_domain_and_class_folders(make_folder: MakeFolder) -> None:
    root = make_folder({"oil_paint/cat": 1, "oil_paint/dog": 2, "photo/dog": 3})
    source = load_source(f"folder:{root}")
    assert source.classes == ("cat", "dog")
    assert source.domains == ("oil paint", "photo")
    assert Counter((s.label, s.domain) for s in source.samples) == {
        (0, "oil paint"): 1,
        (1, "oil paint"): 2,
        (1, "photo"): 3,
    }


def test_split_folders_with_and_without_domains(make_folder: MakeFolder) -> None:
    flat = make_folder({"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1, "valid/dog": 1}, "flat")
    assert Counter(s.split for s in load_source(f"folder:{flat}").samples) == {"train": 4, "test": 2, "val": 1}
    deep = make_folder({"train/ink/cat": 2, "train/ink/dog": 2, "test/oil/cat": 1, "test/oil/dog": 1}, "deep")
    source = load_source(f"folder:{deep}")
    assert Counter((s.split, s.domain) for s in source.samples) == {("train", "ink"): 4, ("test", "oil"): 2}


def test_splits_from_file_names_only_if_all_files_have_them(make_folder: MakeFolder) -> None:
    make_folder({"cat": 3, "dog": 3}, prefix="train_")
    root = make_folder({"cat": 1, "dog": 1}, prefix="test_")
    assert Counter(s.split for s in load_source(f"folder:{root}").samples) == {"train": 6, "test": 2}
    make_folder({"cat": 4}, prefix="img_")
    assert Counter(s.split for s in load_source(f"folder:{root}").samples) == {"": 12}


def test_classes_called_like_splits_are_classes_when_they_hold_images(make_folder: MakeFolder) -> None:
    assert load_source(f"folder:{make_folder({'train': 2, 'test': 2})}").classes == ("test", "train")


def test_missing_empty_file_flat_and_single_class_folders(make_folder: MakeFolder, tmp_path: Path) -> None:
    layouts = r"expected PATH/<class>/<image>, PATH/<domain>/<class>/<image> or PATH/\{train,val,test\}"
    with pytest.raises(DataError, match=f"nowhere' does not exist; {layouts}"):
        load_source(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"is empty; {layouts}"):
        load_source(f"folder:{tmp_path / 'empty'}")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataError, match=f"is a file, not a folder; {layouts}"):
        load_source(f"folder:{tmp_path / 'file.txt'}")
    with pytest.raises(DataError, match="holds images but no class folders"):
        load_source(f"folder:{make_folder({'cat': 2}) / 'cat'}")
    with pytest.raises(DataError, match=r"one class only \('cat'\)"):
        load_source(f"folder:{make_folder({'cat': 2})}")


def test_class_folder_without_images(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 2})
    (root / "yak").mkdir()
    with pytest.raises(DataError, match=r"class folder '.*yak' holds no images"):
        load_source(f"folder:{root}")


def test_unreadable_images_are_listed_and_skipped_or_an_error(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 3, "dog": 3})
    (root / "cat" / "text.jpg").write_text("no picture")
    whole = (root / "dog" / "000.png").read_bytes()
    (root / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "dog" / "nothing.png").touch()
    (root / "cat" / "dangling.png").symlink_to(root / "gone.png")
    source = load_source(f"folder:{root}")
    bad = {str(root / name) for name in ("cat/text.jpg", "cat/dangling.png", "dog/cut.png", "dog/nothing.png")}
    assert set(source.skipped) == bad
    assert len(source.samples) == 6
    with pytest.raises(DataError, match=r"cannot decode image .*\(4 unreadable images in all\)"):
        load_source(f"folder:{root}", strict=True)


def test_a_class_with_unreadable_images_only(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 2, "yak": 1})
    (root / "yak" / "000.png").write_text("no picture")
    with pytest.raises(DataError, match=r"class 'yak' .* has no readable image; 1 images were unreadable"):
        load_source(f"folder:{root}")


def test_a_warm_run_decodes_only_what_changed(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder({"cat": 3, "dog": 3})
    (root / "cat" / "broken.png").write_text("no picture")
    first = load_source(f"folder:{root}")
    tried: list[str] = []
    decode = FileItem.load

    def counted(item: FileItem) -> Image.Image:
        tried.append(item.path.name)
        return decode(item)

    monkeypatch.setattr(FileItem, "load", counted)
    assert load_source(f"folder:{root}") == first
    assert tried == []
    (root / "cat" / "broken.png").write_bytes((root / "cat" / "000.png").read_bytes())
    os.utime(root / "dog" / "001.png", ns=(1, 1))
    assert load_source(f"folder:{root}").skipped == ()
    assert sorted(tried) == ["001.png", "broken.png"]


def test_damaged_memory_of_checked_images_is_not_trusted(make_folder: MakeFolder, empty_cache: Path) -> None:
    root = make_folder({"cat": 2, "dog": 2})
    first = load_source(f"folder:{root}")
    (memory,) = (empty_cache / "readable").glob("*.json")
    memory.write_text("{")
    assert load_source(f"folder:{root}") == first


def test_unknown_kind_and_missing_path(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 2})
    with pytest.raises(ConfigError, match=f"unknown data source.*write folder:{root}"):
        load_source(str(root))
    with pytest.raises(ConfigError, match="lacks its name or path: write folder:PATH"):
        load_source("folder")
