from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from promptfed.errors import FormatError
from promptfed.examples.base import Sample
from promptfed.files.mapped_arrays import write_arrays
from promptfed.tasks import client_index as module
from promptfed.tasks.client_assignment import ClientAssignment
from promptfed.tasks.client_index import ClientIndex, client_index, partition_key
from promptfed.tasks.few_shot import FewShotSplit
from promptfed.tasks.sources.base import Source

CLIENTS = [
    ClientAssignment("a", FewShotSplit([4, 1], [0]), [2, 3]),
    ClientAssignment("naïve ✓", FewShotSplit([2], []), [], "photo"),
    ClientAssignment("", FewShotSplit([0], [1]), [4]),
]


def source(*labels: int, domain: str = "") -> Source:
    return Source("toy", ("cat", "dog"), tuple(Sample(item=None, label=label, domain=domain) for label in labels))  # type: ignore[arg-type]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "MANY_CLIENTS", 2)
    return tmp_path / module.FOLDER


def test_an_index_gives_back_what_was_dealt() -> None:
    index = ClientIndex.of(iter(CLIENTS))
    assert [index.assignment(k) for k in range(len(index))] == CLIENTS
    assert index.sizes().tolist() == [[2, 1, 2], [1, 0, 0], [1, 1, 1]]
    assert len(ClientIndex.of([])) == 0


def test_a_file_is_mapped_and_gives_the_same(tmp_path: Path) -> None:
    ClientIndex.of(CLIENTS).save(tmp_path / "new" / "index", "key")
    index = ClientIndex.open(tmp_path / "new" / "index", "key", samples=5)
    assert isinstance(index.arrays["positions"], np.memmap)
    assert [index.assignment(k) for k in range(3)] == CLIENTS
    with pytest.raises(FormatError, match="is not the partition"):
        ClientIndex.open(tmp_path / "new" / "index", "another", samples=5)
    with pytest.raises(FormatError, match="positions that the data do not have"):
        ClientIndex.open(tmp_path / "new" / "index", "key", samples=4)


@pytest.mark.parametrize("ends", [[0, 2], [0, 3, 2, *[8] * 7], [1, *[8] * 9]])
def test_ends_that_do_not_cut_the_positions_are_refused(tmp_path: Path, ends: list[int]) -> None:
    arrays = {**ClientIndex.of(CLIENTS).arrays, "ends": np.array(ends, dtype=np.int64)}
    write_arrays(tmp_path / "index", arrays, {"key": "key"})
    with pytest.raises(FormatError, match="positions that the data do not have"):
        ClientIndex.open(tmp_path / "index", "key", samples=5)


def test_many_clients_are_dealt_once_and_then_read(cache: Path) -> None:
    deals: list[int] = []

    def deal() -> list[ClientAssignment]:
        deals.append(1)
        return CLIENTS

    data = source(0, 0, 1, 1, 1)
    first, second = (client_index(deal, 3, data, {"shots": 2}) for _ in range(2))
    assert first.assignment(1) == second.assignment(1) == CLIENTS[1]
    assert (len(deals), len(list(cache.iterdir()))) == (1, 1)
    [file] = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    assert client_index(deal, 3, data, {"shots": 2}).assignment(2) == CLIENTS[2]
    assert len(deals) == 2, "a damaged file is drawn again"
    client_index(deal, 2, data, {"shots": 2})
    assert len(list(cache.iterdir())) == 1, "few clients need no file"


def test_a_cache_that_cannot_be_written_costs_no_run(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.write_text("in the way")
    assert client_index(lambda: CLIENTS, 3, source(0, 0, 1, 1, 1), {}).assignment(0) == CLIENTS[0]
    assert "cannot be used" in caplog.text
    assert "cannot be kept in the cache" in caplog.text


def test_what_is_wrong_with_the_data_is_said(cache: Path) -> None:
    def deal() -> list[ClientAssignment]:
        raise FileNotFoundError("photo.jpg")

    with pytest.raises(FileNotFoundError, match=r"photo\.jpg"):
        client_index(deal, 3, source(0, 1), {})


def test_the_key_is_another_for_whatever_decides() -> None:
    keys = {
        partition_key(source(0, 1), {"shots": 2}),
        partition_key(source(0, 1), {"shots": 3}),
        partition_key(source(1, 0), {"shots": 2}),
        partition_key(source(0, 1, domain="photo"), {"shots": 2}),
    }
    assert len(keys) == 4
    assert partition_key(source(0, 1), {"shots": 2}) in keys
