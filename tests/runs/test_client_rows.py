from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from promptfed.config import RunConfig
from promptfed.errors import RunError
from promptfed.runs import partition_file
from promptfed.runs.client_rows import FILE, ClientRows
from promptfed.runs.directory import RunDirectory
from promptfed.runs.partition_check import differences
from promptfed.runs.partition_file import partition_record, read_partition, write_partition
from promptfed.types import FederatedTask

Build = Callable[..., FederatedTask]
SMALL = {"data": "icons:codicons,elusive", "shots": 1, "task_options": {"val_shots": 1, "overlap": True}}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", RunConfig(), label="")


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_file, "MOST_VALUES", 0)


def test_the_rows_of_many_clients_are_those_of_few(build: Build, run: RunDirectory, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    task = build(clients=3, **SMALL)
    plain = partition_record(task)
    monkeypatch.setattr(partition_file, "MOST_VALUES", 0)
    stored = write_partition(run, partition_record(task))
    assert stored["clients"] == []
    record = read_partition(run)
    assert record is not None
    assert isinstance(record["clients"], ClientRows)
    assert isinstance(record["clients"].arrays["cells"], np.memmap)
    assert list(record["clients"]) == record["clients"][:] == plain["clients"]
    assert [record["clients"].digest(k) for k in range(3)] == plain["content"]["clients"]
    assert differences(plain, record) == differences(record, plain) == differences(record, record) == []
    write_partition(run, plain)
    assert not (run.path / FILE).exists(), "a small table leaves no file of a large one"
    assert read_partition(run) == plain


@pytest.mark.usefixtures("many")
def test_what_changed_is_named_as_for_few(build: Build, run: RunDirectory) -> None:
    write_partition(run, partition_record(build(clients=3, **SMALL)))
    recorded = read_partition(run)
    assert recorded is not None
    other = partition_record(build(clients=3, partition_seed=1, **SMALL))
    assert any("has other" in line for line in differences(recorded, other))
    assert differences(recorded, partition_record(build(clients=4, **SMALL))) == ["client 'client 3' is new"]


@pytest.mark.usefixtures("many")
def test_a_damaged_or_strange_file_is_one_line(build: Build, run: RunDirectory) -> None:
    write_partition(run, partition_record(build(clients=3, **SMALL)))
    content = (run.path / FILE).read_bytes()
    (run.path / FILE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError, match="damaged"):
        read_partition(run)
    partition_record(build(clients=2, **SMALL))["clients"].save(run.path)
    with pytest.raises(RunError, match=r"not the one that partition\.json was written with"):
        read_partition(run)
    (run.path / FILE).unlink()
    with pytest.raises(RunError, match="train --resume writes both again"):
        read_partition(run)
