from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from promptfed.errors import ConfigError, DataError
from promptfed.examples.base import FileItem
from promptfed.tasks.sources import load_source

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
    source = load_source(f"folder:{root}")
    assert Counter(s.split for s in source.samples) == {"train": 6, "test": 2}
    assert source.notes == ("splits are those that file names begin with (train_, val_, test_): 2 test, 6 train",)
    make_folder({"cat": 4}, prefix="img_")
    source = load_source(f"folder:{root}")
    assert Counter(s.split for s in source.samples) == {"": 12}
    assert "names of 8 of 12 images begin with train_ or test_, others do not: none is a split" in source.notes


def test_a_class_called_like_a_split_is_one_when_it_holds_images_like_the_others(make_folder: MakeFolder) -> None:
    source = load_source(f"folder:{make_folder({'bus': 2, 'car': 2, 'train': 2})}")
    assert source.classes == ("bus", "car", "train")
    assert source.notes == ("folder 'train': taken as class, since images are in it",)


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "Testing"), ("train2017", "val2017", "test2017")])
def test_splits_without_class_folders_are_refused(make_folder: MakeFolder, names: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"what looks like splits, .* that hold images but no class folders"):
        load_source(f"folder:{make_folder(dict.fromkeys(names, 2))}")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("Training", "Testing"), {"train", "test"}),
        (("TRAIN", "Val", "test"), {"train", "val", "test"}),
        (("train2017", "val2017", "test2015"), {"train", "val", "test"}),
        (("training_set", "dev", "test-images"), {"train", "val", "test"}),
        (("train", "eval"), {"train", "val"}),
    ],
)
def test_folders_that_look_like_splits_are_splits(
    make_folder: MakeFolder, names: tuple[str, ...], splits: set[str]
) -> None:
    source = load_source(f"folder:{make_folder({f'{top}/{c}': 2 for top in names for c in ('cat', 'dog')})}")
    assert {s.split for s in source.samples} == splits
    assert source.domains == ("",)
    assert source.classes == ("cat", "dog")
    assert any("are taken as splits" in note for note in source.notes)


@pytest.mark.parametrize("other", ["extra", "Photos 2", "unlabelled"])
def test_a_folder_with_images_beside_splits_is_refused(make_folder: MakeFolder, other: str) -> None:
    root = make_folder({f"{top}/{c}": 2 for top in ("train", "test", other) for c in ("cat", "dog")})
    with pytest.raises(DataError, match=f"folders 'test', 'train', and beside that folder '{other}'"):
        load_source(f"folder:{root}")


def test_a_folder_without_images_beside_splits_is_left_out_with_a_note(make_folder: MakeFolder) -> None:
    root = make_folder({f"{top}/{c}": 2 for top in ("train", "test") for c in ("cat", "dog")})
    (root / "annotations").mkdir()
    (root / "annotations" / "all.json").write_text("{}")
    source = load_source(f"folder:{root}")
    assert source.notes == (f"folder 'annotations' of '{root}' holds no images and is left out",)
    assert len(source.samples) == 8


def test_splits_below_the_classes_are_refused(make_folder: MakeFolder) -> None:
    root = make_folder({f"{c}/{split}": 2 for c in ("cat", "dog") for split in ("train", "test")})
    with pytest.raises(DataError, match="holds folders 'test', 'train', which look like splits"):
        load_source(f"folder:{root}")


def test_images_outside_of_class_folders_and_other_files_are_said(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 2, "dog/more": 3})
    (root / "loose.png").write_bytes((root / "cat" / "000.png").read_bytes())
    (root / "dog" / "scan.dcm").write_bytes(b"x")
    (root / "dog" / "phone.HEIC").write_bytes(b"x")
    (root / "notes.txt").write_text("x")
    source = load_source(f"folder:{root}")
    assert len(source.samples) == 4
    assert source.notes[0].startswith("left out, since they stand outside of the class folders: 4 images; the first is")
    assert source.notes[1] == "files that are not read as images are left out: 1 .dcm, 1 .heic"
    for path in (root / "cat").iterdir():
        path.unlink()
    (root / "cat" / "a.dcm").write_bytes(b"x")
    with pytest.raises(DataError, match=r"class folder '.*cat' holds no images, but 1 .dcm files, which are not read"):
        load_source(f"folder:{root}")


@pytest.mark.parametrize("name", [b"chien \xe9", b"\xff\xfe", b"caf\xc3"])
def test_folder_names_that_are_not_utf8_are_one_line(make_folder: MakeFolder, name: bytes) -> None:
    root = make_folder({"cat": 2, "dog": 2})
    os.rename(os.fsencode(root / "dog"), os.path.join(os.fsencode(root), name))
    with pytest.raises(DataError, match=r"class '.*\\x.*' .* is not UTF-8: rename its folder") as error:
        load_source(f"folder:{root}")
    str(error.value).encode()


@pytest.mark.parametrize("name", [b"\xe9.png", b"b\xff.jpg", b"\x80\x81.png"])
def test_file_names_that_are_not_utf8_are_read_and_shown_escaped(make_folder: MakeFolder, name: bytes) -> None:
    root = make_folder({"cat": 2, "dog": 2})
    os.rename(root / "dog" / "000.png", os.path.join(os.fsencode(root / "dog"), name))
    with open(os.path.join(os.fsencode(root / "cat"), name), "wb") as bad:
        bad.write(b"no picture")
    for _ in range(2):
        source = load_source(f"folder:{root}")
        assert len(source.samples) == 4
        (skipped,) = source.skipped
        assert "\\x" in skipped
        "".join((skipped, *(s.item.name for s in source.samples))).encode()


def test_unreadable_folders_are_one_line(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder({"cat": 2, "dog": 2})

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=f"cannot read data folder '{root}': Permission denied"):
        load_source(f"folder:{root}")


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
    with pytest.raises(DataError, match=r"cannot (decode|read) image .*\(4 unreadable images in all\)"):
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
    examine = FileItem.examine

    def counted(item: FileItem) -> str:
        tried.append(item.path.name)
        return examine(item)

    monkeypatch.setattr(FileItem, "examine", counted)
    assert load_source(f"folder:{root}") == first
    assert tried == []
    Image.new("RGB", (3, 3)).save(root / "cat" / "broken.png")
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


@pytest.mark.parametrize("name", [".NET", "...", "__init", ".dog"])
def test_hidden_folders_with_images_are_said(make_folder: MakeFolder, name: str) -> None:
    root = make_folder({"cat": 2, "dog": 2, name: 1})
    source = load_source(f"folder:{root}")
    assert source.classes == ("cat", "dog")
    assert any(f"begin with . or __: 1 folder with images; the first is {root / name}" in n for n in source.notes)
    (root / ".git").mkdir()
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._0.png").write_bytes(b"x")
    assert load_source(f"folder:{root}").notes == source.notes


def test_a_folder_with_files_of_another_kind_is_not_called_empty(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("text\tlabel\n")
    with pytest.raises(DataError, match="holds neither images nor folders; expected"):
        load_source(f"folder:{tmp_path}")
