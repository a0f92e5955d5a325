from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from promptfed.config import build_config
from promptfed.errors import ConfigError, DataError
from promptfed.tasks import TASKS
from promptfed.tasks.sources import load_source

CLASSES = ["english marigold", "alpine_rose", "zinnia", "bluebell", "moon orchid"]


@pytest.fixture
def flowers(make_folder: Callable[..., Path]) -> Path:
    """A data root with CoOp's layout of oxford_flowers: five classes, their labels not in alphabetical order."""
    root = make_folder({f"oxford_flowers/jpg/{label}": 12 for label in range(5)})
    split: dict[str, list[list[object]]] = {"train": [], "val": [], "test": []}
    for label, name in reversed(list(enumerate(CLASSES))):
        for i in range(12):
            part = "train" if i < 4 else "val" if i < 8 else "test"
            split[part].append([f"{label}/{i:03}.png", label, name])
    (root / "oxford_flowers" / "split_zhou_OxfordFlowers.json").write_text(json.dumps(split))
    return root


def test_split_file_gives_classes_by_label_and_the_base_half(flowers: Path) -> None:
    source = load_source("coop:oxford_flowers", data_root=flowers)
    assert source.classes == tuple(name.replace("_", " ") for name in CLASSES)
    assert source.base_classes == 3
    assert Counter((s.label, s.split) for s in source.samples) == {
        (label, part): 4 for label in range(5) for part in ("train", "val", "test")
    }
    for sample in source.samples:
        assert Path(sample.item.name).parent.name == str(sample.label)


def test_task_trains_on_train_validates_on_val_and_tests_on_test(flowers: Path) -> None:
    task = TASKS["clip-fewshot"].build(
        build_config({"data": "coop:oxford_flowers", "data_root": str(flowers), "shots": 4, "clients": 2})
    )
    assert task.base_classes == ("english marigold", "alpine rose", "zinnia")
    assert task.new_classes == ("bluebell", "moon orchid")
    assert [c.classes for c in task.clients] == [(0, 1), (2,)]
    for client in task.clients:
        assert {int(Path(item.name).stem) for item in client.train.items} == {0, 1, 2, 3}
        assert {int(Path(item.name).stem) for item in client.val.items} == {4, 5, 6, 7}
    assert {int(Path(item.name).stem) for item in task.new_test.items} == {8, 9, 10, 11}


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_shares_keep_the_splits_apart(flowers: Path, partition: str) -> None:
    task = TASKS["clip-fewshot"].build(
        build_config(
            {"data": "coop:oxford_flowers", "data_root": str(flowers), "shots": 2, "clients": 2, "partition": partition}
        )
    )
    assert {int(Path(i.name).stem) for c in task.clients for i in c.train.items} == {0, 1, 2, 3}
    assert {int(Path(i.name).stem) for c in task.clients for i in c.val.items} <= {0, 1, 2, 3, 4, 5, 6, 7}
    held = [i.name for c in task.clients for part in (c.train, c.val) for i in part.items]
    assert len(held) == len(set(held))


def test_errors(flowers: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs --data-root DIR, the folder that holds 'oxford_flowers'"):
        load_source("coop:oxford_flowers")
    with pytest.raises(ConfigError, match="Did you mean 'oxford_flowers'"):
        load_source("coop:oxford_flower", data_root=flowers)
    with pytest.raises(ConfigError, match=r"fgvc_aircraft has no split_zhou_\*.json"):
        load_source("coop:fgvc_aircraft", data_root=flowers)
    with pytest.raises(DataError, match=r"dtd/split_zhou_\*.json, but no file matches"):
        load_source("coop:dtd", data_root=flowers)
    (flowers / "oxford_flowers" / "split_zhou_OxfordFlowers.json").write_text('{"train": [[1, 2]]}')
    with pytest.raises(DataError, match='must hold "train", "val" and "test"'):
        load_source("coop:oxford_flowers", data_root=flowers)
