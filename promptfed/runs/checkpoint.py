"""Checkpoints of a federation: ``round-NNNN/`` folders that are complete or absent.

A checkpoint is written in a draft folder, synced, and renamed. One of the same round (a round that was under way when
the run was interrupted) is first renamed to ``.replaced-round-NNNN``, which counts as that round's checkpoint until
the new one is in its place. Only saving tidies up; loading changes nothing on disk, so a report may load while the
run goes on.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save
from torch import Tensor

from promptfed.errors import DiskError, FormatError, RunError
from promptfed.files.atomic import PRIVATE, naming, remove_drafts, sync_folder, write_synced
from promptfed.files.sealed_json import opened_json, sealed_json
from promptfed.printable import printable
from promptfed.prompt_state import PromptState
from promptfed.readers.files import read_bytes
from promptfed.readers.json_reader import LIMITS
from promptfed.readers.tensors import MODELS, parse_tensors, read_tensor_bytes
from promptfed.runs.personal_store import (
    KEPT_CHECKPOINTS,
    PersonalStore,
    StoredPersonal,
    Version,
    changed_personal,
)
from promptfed.types import FederationState, Reply, Update
from promptfed.usage import Usage

FORMAT, STORED_FORMAT = 6, 7
"""Formats with the personal prompts inside, and with the names of their versions in the folder ``personal``.

They leave out clients that have what their method gave them at the start.
"""
EARLIER_FORMATS = {4: FORMAT, 5: STORED_FORMAT}
"""Formats that name every client, and are read like these."""
PERSONAL_FOLDER = "personal"
DRAFT, REPLACED, DISCARDED = ".draft-", ".replaced-", ".discarded-"
STATE_FILE, ABOUT_FILE = "state.safetensors", "checkpoint.json"
READ_ATTEMPTS = 5

log = logging.getLogger(__name__)


class DamagedCheckpointError(RunError):
    """Error of a checkpoint that differs from what was written."""


def save_checkpoint(
    folder: Path,
    state: FederationState,
    *,
    events_bytes: int,
    events_sha256: str = "",
    run: str = "",
    keep: int = KEPT_CHECKPOINTS,
) -> Path:
    """Write ``state`` as ``folder/round-NNNN`` and keep only the newest ``keep`` (at least 1) checkpoints.

    One process may save at a time: hold the run's lock.

    Args:
        folder: The checkpoints of one stage.
        state: The state to save.
        keep: How many checkpoints to keep.
        events_bytes: Length of the event log at this moment.
        events_sha256: SHA-256 of these bytes.
        run: Identity of the run (``promptfed.runs.passport``), by which a checkpoint of another run is refused.

    Raises:
        DiskError: The disk refuses.
    """
    # Copies, because safetensors refuses one tensor under two names: a client that drops out of the current round
    # has the same personal prompt in its reply and in the state.
    blob = save({key: tensor.clone() for key, tensor in _named_tensors(state)})
    about = sealed_json(_describe(state, blob, events_bytes, events_sha256) | {"run": run})
    final = folder / f"round-{state.round:04d}"
    draft = folder / (DRAFT + final.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _tidy(folder)
        draft.mkdir()
        write_synced(draft / STATE_FILE, blob, PRIVATE)
        write_synced(draft / ABOUT_FILE, about)
        sync_folder(draft)
        if final.exists():
            final.rename(folder / (REPLACED + final.name))
        draft.rename(final)
        sync_folder(folder)
        _keep_newest(folder, keep)
    except OSError as error:
        with suppress(OSError):
            _tidy(folder)
        raise DiskError(error.errno, error.strerror or str(error), f"checkpoint {final}") from error
    return final


def tidy_checkpoints(folder: Path, keep: int = KEPT_CHECKPOINTS) -> None:
    """Bring ``folder`` to the state that an undisturbed run leaves: no leftovers, and the newest ``keep`` checkpoints.

    Raises:
        DiskError: The disk refuses.
    """
    if folder.is_dir():
        with naming(folder):
            _tidy(folder)
            _keep_newest(folder, keep)
    for personal in folder.glob(f"{PERSONAL_FOLDER}/client-*"):
        remove_drafts(personal)


def _keep_newest(folder: Path, keep: int) -> None:
    for _, old in sorted(_complete(folder).items())[: -max(keep, 1)]:
        old.rename(folder / (DISCARDED + old.name))
    _tidy(folder)


class Checkpoint(NamedTuple):
    """A saved state, the length and SHA-256 of the event log at that moment, and the run's identity."""

    state: FederationState
    events_bytes: int
    events_sha256: str = ""
    run: str = ""


def load_checkpoint(
    folder: Path, on_damage: Callable[[str], None] = log.warning, *, fall_back: bool = True
) -> Checkpoint | None:
    """Return the newest complete checkpoint; None if there is none.

    A damaged one is reported to ``on_damage`` in a line, and the one before it is taken.

    Raises:
        RunError: None is complete, or ``fall_back`` is off, or another version of promptfed wrote it. The message names
            the file and the way out.
    """
    complete = _complete(folder)
    newest = max(complete, default=0)
    problems: list[DamagedCheckpointError] = []
    for round in sorted(complete, reverse=True):
        try:
            checkpoint = _load_round(folder, round)
        except DamagedCheckpointError as error:
            if not fall_back:
                raise
            problems.append(error)
            continue
        if checkpoint is not None:
            for problem in problems:
                on_damage(f"{problem}: going on from round {checkpoint.state.round}")
            return checkpoint
    if problems:
        raise DamagedCheckpointError(f"{problems[0]}; no whole one is left: move {folder} away to train it anew")
    # All were dropped meanwhile: the run goes on, so look again, but not at removed checkpoints.
    return load_checkpoint(folder, on_damage, fall_back=fall_back) if _complete(folder) and newest else None


def _load_round(folder: Path, round: int) -> Checkpoint | None:
    """Return the checkpoint of ``round``; None if it was dropped meanwhile.

    Raises:
        DamagedCheckpointError: It differs from what was written.
    """
    for _ in range(READ_ATTEMPTS):
        path = _complete(folder).get(round)
        if path is None:
            return None
        try:
            about = read_bytes(path / ABOUT_FILE, LIMITS.size)
            blob = read_tensor_bytes(path / STATE_FILE, limits=MODELS)
            if read_bytes(path / ABOUT_FILE, LIMITS.size) != about:
                continue  # a run that is still going replaced it between the two reads
        except FileNotFoundError:
            continue  # ... or replaced or dropped it just now: look again
        except OSError as error:
            raise DamagedCheckpointError(f"cannot read checkpoint {path}: {error.strerror or error}") from error
        except FormatError as error:
            raise DamagedCheckpointError(f"checkpoint {path} is damaged: {error}") from error
        return _restore(path, round, about, blob)
    raise DamagedCheckpointError(f"checkpoint {path} lacks {ABOUT_FILE} or {STATE_FILE}")


def newest_round(folder: Path) -> int:
    """Return the round of the newest complete checkpoint, 0 if there is none; opens no file."""
    return max(_complete(folder), default=0)


# ------------------------------------------------------------------------------------------------ folders


def _complete(folder: Path) -> dict[int, Path]:
    """Return round -> its checkpoint folder; a replaced one counts until its successor is in place."""
    folders: dict[int, Path] = {}
    # before and after, because a folder that is being replaced may change its name meanwhile
    names = [path.name for path in folder.glob("round-*")]
    aside = [path.name for path in folder.glob(f"{REPLACED}*")]
    names_again = [path.name for path in folder.glob("round-*")]
    for name in aside + names + names_again:
        match = re.fullmatch(r"round-(\d+)", name.removeprefix(REPLACED))
        if match:
            folders[int(match[1])] = folder / name
    return folders


def _tidy(folder: Path) -> None:
    """Remove what saving, or a killed writer, left over; restore a checkpoint whose successor never came."""
    for aside in folder.glob(f"{REPLACED}*"):
        target = folder / aside.name.removeprefix(REPLACED)
        # removal is never begun under a name that counts as a checkpoint
        aside.rename(folder / (DISCARDED + target.name) if target.exists() else target)
    for pattern in (f"{DRAFT}*", f"{DISCARDED}*"):
        for leftover in folder.glob(pattern):
            shutil.rmtree(leftover)


# ------------------------------------------------------------------------------------------------ content


def _named_tensors(state: FederationState) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.shared.items():
        yield f"shared/{name}", tensor
    for name, tensor in state.server.items():
        yield f"server/{name}", tensor
    for client, personal in _held(state).items():
        for name, tensor in personal.items():
            yield f"personal/{client}/{name}", tensor
    for reply in state.pending:
        for name, tensor in reply.update.shared.items():
            yield f"pending/{reply.client}/shared/{name}", tensor
        for name, tensor in reply.personal.items():
            yield f"pending/{reply.client}/personal/{name}", tensor


def _describe(state: FederationState, blob: bytes, events_bytes: int, events_sha256: str) -> dict[str, Any]:
    """Return what the tensors alone do not say: the empty parts, the clients that replied, and the replies' numbers."""
    changed = changed_personal(state.personal)
    versions = changed.versions if isinstance(changed, StoredPersonal) else None
    return {
        "format": FORMAT if versions is None else STORED_FORMAT,
        "round": state.round,
        "sha256": hashlib.sha256(blob).hexdigest(),
        "events_bytes": events_bytes,
        "events_sha256": events_sha256,
        "shared": list(state.shared),
        "server": list(state.server),
        "personal": {str(client): list(personal) for client, personal in _held(state).items()},
        **(
            {}
            if versions is None
            else {"stored": {str(client): version and list(version) for client, version in versions.items()}}
        ),
        "pending": [
            {
                "client": reply.client,
                "round": reply.round,
                "samples": reply.update.samples,
                "loss": _number(reply.update.loss),
                "accuracy": _number(reply.update.accuracy),
                "seconds": _number(reply.seconds),
                "usage": reply.usage.recorded(),
                "failure": reply.failure,
                "bytes_up": reply.bytes_up,
                "bytes_down": reply.bytes_down,
                "shared": list(reply.update.shared),
                "personal": list(reply.personal),
                **({"processor_figures": dict(reply.processor_figures)} if reply.processor_figures else {}),
            }
            for reply in state.pending
        ],
    }


def _held(state: FederationState) -> Mapping[int, PromptState]:
    """Return the personal prompts that are part of the checkpoint: none if they are files of their own."""
    changed = changed_personal(state.personal)
    return {} if isinstance(changed, StoredPersonal) else changed


def _number(value: float) -> float | str:
    """Convert for JSON, which has no NaN and no infinity: those become text, which ``float`` reads back."""
    return value if math.isfinite(value) else str(value)


def _restore(folder: Path, round: int, about_bytes: bytes, blob: bytes) -> Checkpoint:
    """Return the checkpoint in ``folder``, which must be of ``round``.

    Raises:
        DamagedCheckpointError: It differs from what was written.
        RunError: It has the format of another version.
    """
    try:
        about = opened_json(about_bytes, on_other=_check_format)
        digest = hashlib.sha256(blob).hexdigest()
        if digest != about["sha256"]:
            raise DamagedCheckpointError(
                f"{folder / STATE_FILE} is damaged: its SHA-256 is {digest[:12]}..., "
                f"{ABOUT_FILE} says {str(about['sha256'])[:12]}..."
            )
        if about["round"] != round:
            raise DamagedCheckpointError(
                f"{folder / ABOUT_FILE} is of round {printable(about['round'], 40)}, its folder of round {round}"
            )
        tensors = parse_tensors(blob, MODELS)
        state = FederationState(
            round=round,
            shared=_part(tensors, "shared", about["shared"]),
            server=_part(tensors, "server", about["server"]),
            personal=_personal(folder, about, tensors),
            pending=tuple(_reply(tensors, record) for record in about["pending"]),
        )
        return Checkpoint(state, int(about["events_bytes"]), str(about["events_sha256"]), str(about.get("run", "")))
    except (FormatError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = str(error) if isinstance(error, FormatError) else printable(repr(error), 200)
        raise DamagedCheckpointError(f"{folder / ABOUT_FILE} is damaged ({reason})") from error


def _check_format(about: Mapping[str, Any]) -> None:
    """Raise RunError if ``about`` says that another version of promptfed wrote it."""
    version = about.get("format")
    if isinstance(version, int) and version not in (FORMAT, STORED_FORMAT, *EARLIER_FORMATS):
        raise RunError(
            f"its checkpoints have format {version}, this version of promptfed reads "
            f"{min(EARLIER_FORMATS)} to {STORED_FORMAT}: "
            "go on with the version of promptfed that wrote the run"
        )


def _personal(folder: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Mapping[int, PromptState]:
    if EARLIER_FORMATS.get(about["format"], about["format"]) == STORED_FORMAT:
        store = PersonalStore(folder.parent / PERSONAL_FOLDER)
        return StoredPersonal(
            store, {int(client): version and Version(*version) for client, version in about["stored"].items()}
        )
    return {int(c): _part(tensors, f"personal/{c}", names) for c, names in about["personal"].items()}


def _part(tensors: Mapping[str, Tensor], prefix: str, names: list[str]) -> PromptState:
    return PromptState({name: tensors[f"{prefix}/{name}"] for name in names})


def _reply(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Reply:
    client = int(record["client"])
    update = Update(
        client=client,
        shared=_part(tensors, f"pending/{client}/shared", record["shared"]),
        samples=int(record["samples"]),
        loss=float(record["loss"]),
        accuracy=float(record["accuracy"]),
    )
    return Reply(
        client=client,
        round=int(record["round"]),
        update=update,
        personal=_part(tensors, f"pending/{client}/personal", record["personal"]),
        seconds=float(record["seconds"]),
        usage=Usage(**record["usage"]),
        failure=str(record.get("failure", "")),
        bytes_up=record.get("bytes_up"),
        bytes_down=record.get("bytes_down"),
        processor_figures={str(name): float(value) for name, value in record.get("processor_figures", {}).items()},
    )
