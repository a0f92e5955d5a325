"""A user's own objects become the source that a folder or a table becomes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from promptfed.errors import ConfigError, DataError
from promptfed.tasks.sources.object_images import ObjectImage, image_of
from promptfed.tasks.sources.objects import object_name, read_objects

NAMES = ("red", "green", "blue")


def picture(seed: int, size: tuple[int, int] = (8, 6)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(values.astype(np.uint8))


def pairs(count: int = 6, first: int = 0) -> list[tuple[Image.Image, int]]:
    return [(picture(first + k), k % 3) for k in range(count)]


class Pictures(torch.utils.data.Dataset[Any]):
    """A torch data set; ``shape`` makes what it hands out of a picture."""

    def __init__(self, rows: list[tuple[Image.Image, int]], shape: Callable[[Image.Image], Any] = lambda x: x) -> None:
        self.rows, self.shape, self.lock = rows, shape, threading.get_ident()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        assert threading.get_ident() == self.lock, "a data set of the user's may be for one thread only"
        image, label = self.rows[row]
        return self.shape(image), label


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255


def test_the_same_pictures_in_any_form_are_the_same_source(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    plain, table = pairs(), {"image": [p for p, _ in pairs()], "label": [k for _, k in pairs()]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    forms = {
        "list": plain,
        "names": [(image, NAMES[k]) for image, k in plain],
        "arrays": [(np.asarray(image), np.int64(k)) for image, k in plain],
        "tensors": [(as_tensor(image), torch.tensor(k)) for image, k in plain],
        "torch": Pictures(plain, as_tensor),
        "subset": torch.utils.data.Subset(Pictures(plain), range(6)),
        "hugging face": datasets.Dataset.from_dict(table, features=features),
    }
    found = {name: read_objects(data, "images", class_names=NAMES) for name, data in forms.items()}
    first = found["list"].source
    for name, data in found.items():
        assert data.source.classes == NAMES
        assert [s.label for s in data.source.samples] == [k for _, k in plain], name
        for sample, (image, _) in zip(data.source.samples, plain, strict=True):
            assert np.array_equal(sample.item.load(), image), name
        if name != "hugging face":  # it holds encoded bytes, by which files are known
            assert data.fingerprint == found["list"].fingerprint, name
    assert first.name == "object:list"


def test_files_are_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.png" for k in range(4)]
    for k, path in enumerate(paths):
        picture(k).save(path)
    (tmp_path / "bad.png").write_bytes(b"no image")
    data = [(paths[0], 0), (str(paths[1]), 1), (paths[2], 0), (paths[3], 1), (tmp_path / "bad.png", 1)]
    source = read_objects(data, "images", class_names=["cat", "dog"]).source
    assert [s.item.name for s in source.samples] == [str(path) for path in paths]
    assert source.skipped == (str(tmp_path / "bad.png"),)
    with pytest.raises(DataError, match="bad"):
        read_objects(data, "images", class_names=["cat", "dog"], strict=True)


def test_a_mapping_of_clients_is_the_partition_and_one_of_splits_is_not() -> None:
    clients = {"north": pairs(6), "south": {"train": pairs(6, 10), "test": pairs(3, 20)}}
    found = read_objects(clients, "images", class_names=NAMES, test=pairs(3, 30)).source
    assert found.by_client
    assert {(s.domain, s.split) for s in found.samples} == {
        ("north", "train"), ("south", "train"), ("south", "test"), ("", "test"),
    }  # fmt: skip
    splits = read_objects({"train": pairs(6), "validation": pairs(3, 10)}, "images", class_names=NAMES).source
    assert not splits.by_client
    assert {(s.domain, s.split) for s in splits.samples} == {("", "train"), ("", "val")}


def test_classes_that_no_client_holds_come_last() -> None:
    clients = {"a": [(picture(1), 2), (picture(2), 2)], "b": [(picture(3), 1), (picture(4), 2)]}
    source = read_objects(clients, "images", class_names=NAMES, test=[(picture(5), 0)]).source
    assert (source.classes, source.base_classes) == (("green", "blue", "red"), 2)
    assert [source.classes[s.label] for s in source.samples] == ["blue", "blue", "green", "blue", "red"]


def test_texts() -> None:
    datasets = pytest.importorskip("datasets")
    rows = [("good", "yes"), ("bad", "no"), ("fine", "yes")]
    plain = read_objects(rows, "texts")
    assert plain.source.classes == ("no", "yes")
    table = datasets.Dataset.from_dict({"text": [t for t, _ in rows], "label": [k for _, k in rows]})
    assert read_objects(table, "texts").fingerprint == plain.fingerprint
    parts = datasets.DatasetDict({"train": table, "test": table})
    assert {s.split for s in read_objects(parts, "texts").source.samples} == {"test"}, "copies leave the training split"
    assert (object_name(parts), object_name(table), object_name(dict(parts))) == ("DatasetDict", "Dataset", "Dataset")


def test_a_mapping_that_holds_itself_is_one_line() -> None:
    for key in ("train", "north"):
        data: dict[str, Any] = {}
        data[key] = data
        with pytest.raises(ConfigError, match="which is no split"):
            read_objects(data, "images")


def test_copies_are_left_out_and_two_labels_for_one_picture_are_an_error() -> None:
    source = read_objects([*pairs(), (picture(0), 0)], "images", class_names=NAMES).source
    assert len(source.samples) == 6
    assert "copies" in source.notes[0]
    with pytest.raises(DataError, match=r"list\[0\] is 'red', and the same content in list\[6\] is 'green'"):
        read_objects([*pairs(), (picture(0), 1)], "images", class_names=NAMES)


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        ([], {}, "'list' is empty"),
        ({}, {}, "an empty mapping"),
        ({"a": [], "b": pairs()}, {}, r"'clients\['a'\]|clients\['a'\]"),
        (7, {}, "int cannot be read"),
        ("photos", {}, "'photos' cannot be read"),
        (iter([]), {}, "cannot be read"),
        ([picture(0)], {}, r"list\[0\] is an Image: give pairs"),
        ([(picture(0), 0, 1)], {}, r"list\[0\] is a tuple of 3: give pairs"),
        ([(picture(0), 0), ("a text", 1)], {}, "there is no file 'a text'"),
        ([(picture(0), 0), (3.5, 1)], {}, r"list\[1\] is a float: give a PIL image"),
        ([(picture(0), 3)], {}, "has the label 3, .*classes.*0 to 2"),
        ([(picture(0), 10**5000)], {}, "of very many digits"),
        ([("~nobody-of-this-name/x.png", 0)], {}, "there is no file '~nobody"),
        ({0: pairs(), "0": pairs()}, {}, "names a client twice"),
        ([(picture(0), -1)], {}, "has the label -1"),
        ([(picture(0), "rde")], {}, "Did you mean 'red'"),
        ([(picture(0), 0.5)], {}, "has the label 0.5: give the name or the number"),
        ([(picture(0), True)], {}, "has the label True"),
        ([(picture(0), 0)], {"class_names": None}, "give class_names="),
        ([(picture(0), 0)], {"class_names": ["one"]}, "two classes or more"),
        ([(picture(0), 0)], {"class_names": "cat"}, "two classes or more"),
        ([(picture(0), 0), (picture(1), 0)], {}, "class 'green' .* has no readable image"),
        ({"train": {"north": pairs()}}, {}, "no split"),
        ({("a", "b"): pairs()}, {}, "names a client"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(data: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=words) as error:
        read_objects(data, "images", **{"class_names": NAMES, **options})
    assert "\n" not in str(error.value)


def test_pictures_among_texts_are_one_line_too() -> None:
    with pytest.raises(DataError, match=r"list\[1\] is an Image, and the task's examples are texts"):
        read_objects([("good", "yes"), (picture(0), "no")], "texts")
    with pytest.raises(DataError, match=r"list\[0\] is an empty text"):
        read_objects([("  ", "yes")], "texts")


def test_random_transforms_are_refused() -> None:
    stream = torch.Generator().manual_seed(0)
    with pytest.raises(DataError, match="another image each time"):
        read_objects(Pictures(pairs(), lambda _: torch.rand(3, 4, 4, generator=stream)), "images", class_names=NAMES)


def test_a_data_set_that_raises_is_named() -> None:
    def broken(image: Image.Image) -> Any:
        raise OSError("disk\ngone")

    with pytest.raises(DataError, match=r"cannot read Pictures\[0\]: OSError: disk gone"):
        read_objects(Pictures(pairs(), broken), "images", class_names=NAMES)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (np.zeros((5, 7), np.uint8), (7, 5)),
        (np.zeros((5, 7, 1), np.uint8), (7, 5)),
        (np.zeros((3, 7, 4), np.uint8), (7, 3)),
        (torch.zeros(3, 7, 4), (4, 7)),
        (torch.zeros(1, 7, 9, dtype=torch.uint8), (9, 7)),
        (np.ones((5, 7, 3), np.float32), (7, 5)),
        (np.zeros((5, 7), np.uint16), (7, 5)),
        (np.zeros((5, 7), ">u2"), (7, 5)),
    ],
)
def test_arrays(value: Any, size: tuple[int, int]) -> None:
    assert image_of(value, "x").size == size
    image = ObjectImage(value, "x").load()
    assert (image.mode, image.size) == ("RGB", size)


def test_the_white_of_floats_is_one() -> None:
    assert np.asarray(image_of(np.full((2, 2, 3), 1.0), "x")).max() == 255
    assert np.asarray(image_of(torch.full((3, 2, 2), 0.5), "x")).max() == 128


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((5, 7, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((1, 5, 7, 3), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((0, 7), np.uint8), "give"),
        (np.full((5, 7), 2.0), "outside 0..1"),
        (np.full((5, 7), np.nan), "outside 0..1"),
        (np.zeros((5, 7), np.int64), "give uint8"),
        (np.zeros((5, 7), bool), "give uint8"),
        (object(), "give a PIL image"),
        (torch.empty(3, 5, 7, device="meta"), "no plain numbers"),
        (torch.zeros(3, 5, 7).to_sparse(), "no plain numbers"),
        (np.broadcast_to(np.uint8(0), (200_000, 200_000)), "the most is 140 MB"),
        (np.broadcast_to(np.float32(0), (60_000, 60_000)), "the most is 140 MB"),
    ],
)
def test_other_arrays_are_refused(value: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        image_of(value, "x")


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(DataError, match="has 0 x 0 pixels: it is empty"):
        ObjectImage(Image.new("RGB", (0, 0)), "x").load()


def test_a_damaged_picture_is_skipped_or_named(tmp_path: Path) -> None:
    picture(0, (64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    half = Image.open(tmp_path / "half.png")
    source = read_objects([*pairs(), (half, 0)], "images", class_names=NAMES).source
    assert source.skipped == ("list[6]",)
