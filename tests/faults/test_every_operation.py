"""Every file operation of every writer fails once: one line with the path, nothing left behind, whole afterwards."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults.operations import count_operations, failing

from promptfed.backbones.features import FeatureCache
from promptfed.config import RunConfig
from promptfed.errors import RunError
from promptfed.examples.image_check import ImageCheck, remember
from promptfed.files.atomic import write_bytes
from promptfed.files.atomic_folder import write_folder
from promptfed.prompt_state import PromptState
from promptfed.runs.checkpoint import load_checkpoint, save_checkpoint, tidy_checkpoints
from promptfed.runs.directory import RunDirectory
from promptfed.runs.events import EventLog
from promptfed.runs.personal_store import PersonalStore
from promptfed.types import FederationState

PROMPT = PromptState({"ctx": torch.ones(2, 3)})
CODES = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES)


def _four_checkpoints(folder: Path) -> None:
    for round in (1, 2, 3, 4):
        save_checkpoint(folder, FederationState(round, PROMPT), events_bytes=round)


WRITERS: dict[str, Callable[[Path], object]] = {
    "file": lambda folder: write_bytes(folder / "metrics.json", b"{}"),
    "prompt": lambda folder: PROMPT.save(folder / "prompt.safetensors"),
    "events": lambda folder: EventLog(folder / "events.jsonl").write("round", loss=0.5),
    "checkpoints": _four_checkpoints,
    "personal prompt": lambda folder: PersonalStore(folder).write(3, 1, PROMPT),
    "run": lambda folder: RunDirectory.create(folder / "run", RunConfig(), label="x"),
    "bundle": lambda folder: write_folder(folder / "bundle", {"a": b"1", "b": b"2"}, frozenset("ab")),
}


def _problem(work: Callable[[Path], object], folder: Path) -> OSError | RunError | None:
    try:
        work(folder)
    except (OSError, RunError) as error:
        return error
    return None


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_refused_operation_is_said_and_mended(writer: str, stays: bool, tmp_path: Path) -> None:
    work, wanted = WRITERS[writer], tmp_path / "wanted"
    wanted.mkdir()
    operations = count_operations(wanted, lambda: work(wanted))
    assert operations >= 2
    for number in range(1, operations + 1):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        code = CODES[number % len(CODES)]
        with failing(folder, number, code, stays=stays):
            problem = _problem(work, folder)
        assert problem is None or "\n" not in str(problem)
        assert problem is None or isinstance(problem, RunError) or writer == "bundle"  # whose caller words it
        assert not isinstance(problem, RunError) or str(folder) in str(problem)
        if (folder / "run" / "config.yaml").exists():
            assert stays or problem is None  # else it was taken back
            continue
        work(folder)
        if writer == "checkpoints":
            tidy_checkpoints(folder)
            found = load_checkpoint(folder)
            assert found is not None
            assert found.state.round == 4
        if writer != "events" and not stays:
            assert _names(folder) == _names(wanted), number


def test_notes_on_pictures_that_cannot_be_kept_cost_nothing_but_time(tmp_path: Path) -> None:
    looked = {f"{number}.png": ("stamp", ImageCheck("", "", "id")) for number in range(3)}
    wanted = tmp_path / "wanted" / "notes.json"
    operations = count_operations(wanted.parent, lambda: remember(wanted, looked))
    assert operations >= 5
    for number in range(1, operations + 1):
        folder = tmp_path / str(number)
        with failing(folder, number, CODES[number % len(CODES)]):
            remember(folder / "notes.json", looked)
        remember(folder / "notes.json", looked)
        assert (folder / "notes.json").read_bytes() == wanted.read_bytes()
        assert _names(folder) == ["notes.json"]


def test_a_cache_that_cannot_be_filled_costs_nothing_but_time(tmp_path: Path) -> None:
    features = {f"{number:064x}": torch.ones(3) * number for number in range(3)}

    def fill(folder: Path) -> None:
        FeatureCache(folder, 10**9).put("model", "images", features)

    operations = count_operations(tmp_path / "wanted", lambda: fill(tmp_path / "wanted"))
    for number in range(1, operations + 1):
        folder = tmp_path / str(number)
        with failing(folder, number, errno.ENOSPC):
            fill(folder)
        fill(folder)
        assert set(FeatureCache(folder, 10**9).get("model", "images", features)) == set(features)
        assert [name for name in _names(folder) if "partial" in name] == []
