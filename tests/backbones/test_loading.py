from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from promptfed.backbones.features import IMAGE_BATCH, FeatureCache, FeatureStore
from promptfed.backbones.loading import default_threads, loaded_ahead
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.errors import DataError
from promptfed.examples import pixels
from promptfed.examples.base import FileItem
from promptfed.types import Split

HERE = threading.get_ident


def always(item: int) -> bool:
    return True


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("ahead", [0, 1, 7])
def test_values_come_in_order_from_any_number_of_threads(threads: int, ahead: int) -> None:
    def load(item: int) -> int:
        time.sleep(0.001 * (item % 3))
        return item * item

    assert list(loaded_ahead(range(20), load, always, threads, ahead)) == [k * k for k in range(20)]
    assert list(loaded_ahead([], load, always, threads, ahead)) == []


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_first_that_cannot_be_loaded_is_the_one_that_is_told(threads: int) -> None:
    def load(item: int) -> int:
        if item in (4, 6):
            time.sleep(0.02 if item == 4 else 0)  # the later one fails first
            raise ValueError(str(item))
        return item

    loader, values = loaded_ahead(range(9), load, always, threads, 8), []
    with pytest.raises(ValueError, match=r"^4$"):
        values.extend(loader)
    assert values == [0, 1, 2, 3]


def test_no_more_than_asked_is_loaded_ahead_and_nothing_goes_on_after_the_end() -> None:
    begun: list[int] = []

    def load(item: int) -> int:
        begun.append(item)
        return item

    before = threading.active_count()
    loader = loaded_ahead(range(100), load, always, 2, 3)
    assert next(loader) == 0
    assert next(loader) == 1
    time.sleep(0.05)
    assert max(begun) <= 5
    loader.close()
    assert threading.active_count() == before
    count = len(begun)
    time.sleep(0.02)
    assert len(begun) == count


def test_what_may_not_leave_is_loaded_by_the_caller_and_so_is_the_first() -> None:
    threads: dict[int, int] = {}

    def load(item: int) -> None:
        threads[item] = HERE()

    list(loaded_ahead(range(8), load, lambda item: item % 2 == 1, 2, 4))
    assert [threads[k] == HERE() for k in range(8)] == [True, False] * 4


def test_torch_has_as_many_threads_as_before() -> None:
    before, seen = torch.get_num_threads(), []
    list(loaded_ahead(range(4), lambda item: seen.append(torch.get_num_threads()), always, 1, 2))
    assert torch.get_num_threads() == before
    assert seen[1:] == [1, 1, 1]


def test_one_cpu_is_left_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, wanted in ((1, (0, 0)), (2, (1, 1)), (16, (1, 8))):
        monkeypatch.setattr("promptfed.backbones.loading.available_cpus", lambda cpus=cpus: cpus)
        assert (default_threads(torch.device("cpu")), default_threads(torch.device("cuda"))) == wanted


# ---------------------------------------------------------------------------------------------------- features


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    generator = torch.Generator().manual_seed(0)
    paths = [tmp_path / f"{k}.png" for k in range(2 * IMAGE_BATCH + 3)]
    for path in paths:
        values = torch.randint(0, 256, (40, 50, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(values.numpy()).save(path)
    return paths


def store_of(backbone: OpenClipBackbone, folder: Path, threads: int) -> FeatureStore:
    return FeatureStore(backbone, FeatureCache(folder, 10**9), load_threads=threads)


def split_of(paths: list[Path]) -> Split:
    return Split(tuple(map(FileItem, paths)), torch.zeros(len(paths), dtype=torch.long))


def test_features_do_not_depend_on_the_threads(small: OpenClipBackbone, tmp_path: Path, files: list[Path]) -> None:
    features = [store_of(small, tmp_path / str(n), n).images(split_of(files)) for n in (0, 1, 5)]
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])


def test_large_images_are_decoded_by_the_caller(
    small: OpenClipBackbone, tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    large, seen = str(files[3]), {}
    load = FileItem.load

    def noted(item: FileItem) -> Image.Image:
        seen[item.name] = HERE()
        return load(item)

    monkeypatch.setattr(FileItem, "load", noted)
    monkeypatch.setattr(pixels, "is_large", lambda source, name: name == large)
    store_of(small, tmp_path / "cache", 2).images(split_of(files))
    assert [name for name, thread in seen.items() if thread == HERE()] == [str(files[0]), large]


@pytest.mark.parametrize("threads", [0, 3])
def test_an_unreadable_image_is_told_alike(
    small: OpenClipBackbone, tmp_path: Path, files: list[Path], threads: int
) -> None:
    files[IMAGE_BATCH + 1].write_bytes(b"no image")
    files[IMAGE_BATCH + 3].write_bytes(b"")
    before = threading.active_count()
    with pytest.raises(DataError) as caught:
        store_of(small, tmp_path / "cache", threads).images(split_of(files))
    assert str(caught.value) == (
        f"cannot decode image {files[IMAGE_BATCH + 1]}: it is no image of a known format (JPEG, PNG, GIF, WebP, TIFF, "
        "BMP, PPM, AVIF, JPEG 2000)"
    )
    assert threading.active_count() == before
    spent = small.calls.images
    store_of(small, tmp_path / "cache", threads).images(split_of(files[:IMAGE_BATCH]))
    assert small.calls.images == spent, "the batch before it is kept"


def test_an_interrupt_leaves_no_thread(small: OpenClipBackbone, tmp_path: Path, files: list[Path]) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        store_of(small, tmp_path / "cache", 4).fill(split_of(files).items, stop)
    assert threading.active_count() == before
