from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from promptfed.errors import ConfigError, DataError
from promptfed.tasks.sources import load_source


def write_idx(path: Path, values: np.ndarray) -> None:
    """The file format of the MNIST family: magic number, sizes, bytes."""
    head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(head + values.astype(np.uint8).tobytes())


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """FashionMNIST on disk with 20 training and 10 test images of 28 x 28 pixels; image i is of class i % 10."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("t10k", 10)):
        write_idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28)))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return tmp_path


def test_fashion_mnist_from_its_files(fashion: Path) -> None:
    source = load_source("torchvision:FashionMNIST", data_root=fashion)
    assert len(source.classes) == 10
    assert "Ankle boot" in source.classes
    assert Counter((s.split, s.label) for s in source.samples) == {
        **{("train", k): 2 for k in range(10)},
        **{("test", k): 1 for k in range(10)},
    }


def test_data_set_with_named_splits(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    home = make_folder({"oxford-iiit-pet/images": 4, "oxford-iiit-pet/annotations": 0}) / "oxford-iiit-pet"
    for number, file in enumerate(sorted((home / "images").iterdir())):
        breed = ("great_pyrenees", "Bombay")[number % 2]
        Image.open(file).convert("RGB").save(home / "images" / f"{breed}_{number}.jpg")
        with (home / "annotations" / ("trainval.txt" if number < 2 else "test.txt")).open("a") as lines:
            lines.write(f"{breed}_{number} {2 - number % 2} 1 1\n")
    source = load_source("torchvision:OxfordIIITPet", data_root=home.parent)
    assert source.classes == ("Bombay", "Great Pyrenees")
    assert [(s.split, s.label) for s in source.samples] == [("train", 1), ("train", 0), ("test", 1), ("test", 0)]
    assert source.samples[0].item.load().size == (6, 6)


def test_content_id_follows_the_pixels(fashion: Path) -> None:
    items = [s.item for s in load_source("torchvision:FashionMNIST", data_root=fashion).samples]
    again = [s.item for s in load_source("torchvision:FashionMNIST", data_root=fashion).samples]
    assert items[0].load().mode == "RGB"
    assert len({item.content_id() for item in items}) == 30
    assert [item.content_id() for item in items] == [item.content_id() for item in again]


def test_unknown_name_and_data_without_class_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'CIFAR10'"):
        load_source("torchvision:CIFAR-10", data_root=tmp_path)


def test_not_there_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    with pytest.raises(DataError, match=r"CIFAR10 is not in .* could not be downloaded .*no network.* --data-root DIR"):
        load_source("torchvision:CIFAR10", data_root=tmp_path)
