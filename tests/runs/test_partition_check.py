"""A run's data are known again: classes, clients, numbers and every example."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from promptfed.errors import DataError
from promptfed.runs.partition_check import check_partition, differences
from promptfed.runs.partition_file import partition_record
from promptfed.types import FederatedTask

Build = Callable[..., FederatedTask]


@pytest.fixture
def data(make_folder: Callable[..., Path]) -> Path:
    return make_folder({"cat": 12, "dog": 12, "elk": 12, "yak": 12})


def record(build: Build, data: Path) -> dict[str, object]:
    task = build(data=f"folder:{data}", clients=2, shots=2, task_options={"base_fraction": 1.0})
    written: dict[str, object] = json.loads(json.dumps(partition_record(task)))
    return written


def rename(data: Path) -> None:
    (data / "dog").rename(data / "hund")


def swap(data: Path) -> None:
    (data / "dog").rename(data / "x")
    (data / "elk").rename(data / "dog")
    (data / "x").rename(data / "elk")


def remove(data: Path) -> None:
    shutil.rmtree(data / "yak")


def add(data: Path) -> None:
    shutil.copytree(data / "yak", data / "zebra")
    for number, file in enumerate(sorted((data / "zebra").iterdir())):
        Image.new("RGB", (3, 3), (number, 0, 0)).save(file)


def repaint(data: Path) -> None:
    for file in (data / "cat").iterdir():
        Image.new("RGB", (3, 3), (int(file.stem), 9, 9)).save(file)


def thin(data: Path) -> None:
    for number in range(2):
        (data / "cat" / f"{number:03}.png").unlink()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (rename, "no class 'dog' any more, and class 'hund' is new"),
        (swap, "client 0 has other examples; client 1 has other examples; the test examples are others"),
        (remove, "no class 'yak' any more"),
        (add, "class 'zebra' is new"),
        (repaint, "client 0 has other examples; the test examples are others"),
        (thin, "client 0 has 9 test examples, not 10"),
    ],
)
def test_what_differs_is_said(build: Build, data: Path, change: Callable[[Path], None], why: str) -> None:
    before = record(build, data)
    check_partition(before, record(build, data), data)
    check_partition(None, before, data)
    change(data)
    with pytest.raises(DataError, match=f"have changed since it started: {why}.*Bring the old data back") as error:
        check_partition(before, record(build, data), data)
    assert "\n" not in str(error.value)


def test_a_moved_folder_and_records_without_contents_are_accepted(build: Build, data: Path) -> None:
    before = record(build, data)
    shutil.move(data, data.with_name("elsewhere"))
    assert differences(before, record(build, data.with_name("elsewhere"))) == []
    del before["content"]
    repaint(data.with_name("elsewhere"))
    assert differences(before, record(build, data.with_name("elsewhere"))) == []


def test_names_from_outside_are_escaped() -> None:
    (said,) = differences({"classes": ["a\x1b[2J", "b"]}, {"classes": ["b", "c\n"]})
    assert said == "no class 'a\\x1b[2J' any more, and class 'c\\x0a' is new"
