"""Offline runs read back with W&B's own messages, and the key that online ones need."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from promptfed.errors import ConfigError
from promptfed.observers.choose import build_observers

pytest.importorskip("wandb")
pytestmark = pytest.mark.slow
BLOCK, FULL, LAST = 32768, 1, 4


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_DIR", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def records(path: Path) -> list[Any]:
    """All that the file of an offline run holds: W&B's messages in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts, kept = path.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:  # no room for another header
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            kept.append(record)
            parts = b""
    return kept


def written(folder: Path, identity: str) -> list[Any]:
    """All records of both parts of a run, once W&B's own process has written how the second one ended."""
    until = time.monotonic() + 30
    while True:
        files = sorted(folder.glob(f"offline-run-*-{identity}/*.wandb"))
        kept = [record for file in files for record in records(file)]
        if sum(record.HasField("exit") for record in kept) == 2 or time.monotonic() > until:
            return kept
        time.sleep(0.2)


def test_an_offline_run_holds_all_and_is_continued_under_the_same_id(
    story: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    mine = {"wandb": {"project": "prompts", "tags": ["small"]}}
    story.tell(build_observers(mine), story.start, *story.round(1), stops=True)
    time.sleep(1.1)  # wandb names a file by the second in which it begins
    story.tell(build_observers(mine), story.resume, *story.round(2, 0.25), story.tests)
    assert story.warnings == []
    kept = written(story.folder.path / "wandb", story.identity)
    [identity] = {record.run.run_id for record in kept if record.HasField("run")}
    assert identity == story.identity
    run = next(record.run for record in kept if record.HasField("run"))
    assert (run.project, run.display_name, list(run.tags)) == ("prompts", "tale", ["small"])
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in kept
        if record.HasField("history")
    ]
    losses = {row["promptfl/round"]: row["promptfl/loss"] for row in rows if "promptfl/loss" in row}
    assert losses == {1: 0.5, 2: 0.25}
    assert sum("promptfl/loss" in row for row in rows) == 2, "nothing is told twice"
    assert any(row.get("promptfl/test/base") == 0.625 for row in rows)
    assert any(record.HasField("artifact") and record.artifact.type == "report" for record in kept) or any(
        record.request.log_artifact.artifact.type == "report" for record in kept if record.HasField("request")
    )


def test_without_a_key_an_online_run_does_not_begin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ConfigError, match="has no key: set WANDB_API_KEY"):
        build_observers("wandb")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    (tmp_path / "netrc").write_text(f"machine wandb.example.org login user password {'0' * 40}\n")
    assert build_observers("wandb")
