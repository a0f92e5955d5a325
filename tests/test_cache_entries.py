"""What is in the cache is told by kind; what is in use, paid for or not ours stays."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest
from filelock import FileLock

from promptfed.cache_dir import feature_limit, parsed_size
from promptfed.cache_entries import KINDS, cache_entries, chosen_entries, parsed_age, remove_entries
from promptfed.errors import ConfigError

NOW = 1_700_000_000.0
FILES = {
    "features/fp/images/a.safetensors": (10, 40),
    "features/fp/images/b.safetensors": (20, 1),
    "features/fp/texts/c.safetensors": (5, 3),
    "features/fp/anchors/d.safetensors": (5, 50),
    "oracle/answers.sqlite": (0, 60),
    "towers/ab/weights.safetensors": (7, 20),
    "towers/ab/config.json": (3, 10),
    "models/gemma/model.safetensors": (30, 2),
    "readable/e.json": (4, 5),
    "partitions/f.safetensors": (6, 6),
    "bundles/me--walls/main/promptfed_config.json": (8, 7),
    "torchvision/cifar/data": (9, 8),
    "mine.txt": (100, 100),
    "elsewhere/mine.bin": (100, 100),
}
"""File -> its bytes, and the days since it was used."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, (size, days) in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".sqlite"):
            with sqlite3.connect(path) as database:
                database.execute("CREATE TABLE answers (key TEXT)")
            database.close()
        else:
            path.write_bytes(b"x" * size)
        os.utime(path, (NOW - 86400 * days,) * 2)
    return tmp_path


def names(entries: list) -> list[str]:
    return [entry.path.name for entry in entries]


def test_every_kind_is_told(folder: Path) -> None:
    entries = cache_entries(folder)
    assert {entry.kind for entry in entries} == set(KINDS)
    assert [entry.used for entry in entries] == sorted(entry.used for entry in entries)
    [tower] = [entry for entry in entries if entry.kind == "towers"]
    assert (tower.path.name, tower.size, tower.files) == ("ab", 10, 2)
    assert tower.used == NOW - 86400 * 10
    assert cache_entries(folder / "nothing") == []


def test_kind_age_and_size_choose(folder: Path) -> None:
    entries = cache_entries(folder)
    assert "answers" not in {entry.kind for entry in chosen_entries(entries)}
    assert len(chosen_entries(entries)) == len(entries) - 1
    assert names(chosen_entries(entries, ["answers"])) == ["answers.sqlite"]
    shards = ["d.safetensors", "a.safetensors", "c.safetensors", "b.safetensors"]
    assert names(chosen_entries(entries, ["features"])) == shards
    assert names(chosen_entries(entries, ["features"], max_size=25)) == shards[:2]
    assert names(chosen_entries(entries, ["features"], max_size=40)) == []
    old = chosen_entries(entries, ["image-features", "towers"], older_than=parsed_age("5d"), now=NOW)
    assert names(old) == ["a.safetensors", "ab"]
    with pytest.raises(ConfigError, match=r"unknown kind of cache 'feature'\. Did you mean 'features'"):
        chosen_entries(entries, ["feature"])


def test_what_is_removed_is_gone_and_the_rest_stays(folder: Path) -> None:
    entries = cache_entries(folder)
    gone, left = remove_entries(folder, chosen_entries(entries))
    assert (len(gone), left) == (len(entries) - 1, [])
    kept = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert kept - {"features/lock"} == {"oracle/answers.sqlite", "mine.txt", "elsewhere/mine.bin"}
    assert not (folder / "features/fp").exists()
    gone, left = remove_entries(folder, chosen_entries(cache_entries(folder), ["answers"]))
    assert (names(gone), left) == (["answers.sqlite"], [])


def test_what_is_in_use_stays(folder: Path) -> None:
    entries = cache_entries(folder)
    reader = sqlite3.connect(folder / "oracle/answers.sqlite")
    reader.execute("BEGIN EXCLUSIVE")
    with FileLock(folder / "features/lock"), FileLock(folder / "models/gemma.lock"):
        gone, left = remove_entries(folder, chosen_entries(entries, ["features", "models", "answers", "checks"]))
    reader.close()
    assert names(gone) == ["e.json"]
    assert {entry.path.name: why for entry, why in left} == {
        **dict.fromkeys(
            ["a.safetensors", "b.safetensors", "c.safetensors", "d.safetensors"], "features are being written"
        ),
        "gemma": "another process uses it",
        "answers.sqlite": "another process uses it",
    }


def test_a_link_leads_nowhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "precious"
    outside.mkdir()
    (outside / "file").write_text("x")
    (folder / "towers/link").symlink_to(outside)
    assert "link" not in names(cache_entries(folder))
    (folder / "towers/ab/link").symlink_to(outside)
    remove_entries(folder, chosen_entries(cache_entries(folder)))
    assert (outside / "file").exists()


@pytest.mark.parametrize(("text", "hours"), [("30d", 720), ("12h", 12), ("1.5W", 252)])
def test_ages(text: str, hours: float) -> None:
    assert parsed_age(text) == hours * 3600


def test_sizes_and_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [parsed_size(text, "x") for text in ("2GB", "1.5 mb", "0B")] == [2_000_000_000, 1_500_000, 0]
    monkeypatch.delenv("PROMPTFED_CACHE_MAX", raising=False)
    monkeypatch.delenv("PROMPTFED_CACHE_GB", raising=False)
    assert feature_limit() == 5_000_000_000
    monkeypatch.setenv("PROMPTFED_CACHE_GB", "2")
    assert feature_limit() == 2_000_000_000
    monkeypatch.setenv("PROMPTFED_CACHE_MAX", "300MB")
    assert feature_limit() == 300_000_000
    monkeypatch.setenv("PROMPTFED_CACHE_MAX", "much")
    with pytest.raises(ConfigError, match="PROMPTFED_CACHE_MAX is 'much': give a size such as 2GB"):
        feature_limit()
    for wrong in ("30", "d", "-1d", "30 days"):
        with pytest.raises(ConfigError, match="--older-than is"):
            parsed_age(wrong)


def test_the_clock_is_that_of_now(folder: Path) -> None:
    os.utime(folder / "readable/e.json", (time.time(),) * 2)
    entries = [entry for entry in cache_entries(folder) if entry.kind == "checks"]
    assert chosen_entries(entries, older_than=60.0) == []
