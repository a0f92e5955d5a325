"""Checkpoints of a federation: ``round-NNNN/`` folders that are there whole or not at all.

A checkpoint is written in a draft folder, synced, and renamed. One of the same round (a round that was under
way when the run was interrupted) is first renamed to ``.replaced-round-NNNN``, which counts as that round's
checkpoint until the new one is in its place. Only saving tidies up; loading changes nothing on disk, so a
report may load while the run goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from promptfed.errors import FormatError, RunError
from promptfed.prompts import PromptState
from promptfed.readers.files import read_bytes
from promptfed.readers.json_reader import LIMITS, parse_json
from promptfed.readers.tensors import MOST_BYTES, parse_tensors
from promptfed.runs.atomic import sync_folder, write_synced
from promptfed.runs.personal_store import KEPT_CHECKPOINTS, PersonalStore, StoredPersonal
from promptfed.types import FederationState, Reply, Update
from promptfed.usage import Usage

FORMAT, STORED_FORMAT = 2, 3
"""With the clients' personal prompts inside; with the names of their versions in the folder ``personal``."""
PERSONAL_FOLDER = "personal"
DRAFT, REPLACED, DISCARDED = ".draft-", ".replaced-", ".discarded-"
STATE_FILE, ABOUT_FILE = "state.safetensors", "checkpoint.json"
READ_ATTEMPTS = 5


def save_checkpoint(folder: Path, state: FederationState, *, events_bytes: int, keep: int = KEPT_CHECKPOINTS) -> Path:
    """Write ``state`` as ``folder/round-NNNN`` and keep only the newest ``keep`` (at least 1) checkpoints.

    ``events_bytes`` is the length of the event log at this moment. One process may save at a time: hold the
    run's lock. Raises RunError if the disk refuses.
    """
    # Copies, because safetensors refuses one tensor under two names: who dropped out of the round that is under way
    # has the same personal prompt in its reply and in the state.
    blob = save({key: tensor.clone() for key, tensor in _named_tensors(state)})
    about = json.dumps(_describe(state, blob, events_bytes), indent=1, allow_nan=False)
    final = folder / f"round-{state.round:04d}"
    draft = folder / (DRAFT + final.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _tidy(folder)
        draft.mkdir()
        write_synced(draft / STATE_FILE, blob)
        write_synced(draft / ABOUT_FILE, about.encode())
        sync_folder(draft)
        if final.exists():
            final.rename(folder / (REPLACED + final.name))
        draft.rename(final)
        sync_folder(folder)
        for _, old in sorted(_complete(folder).items())[: -max(keep, 1)]:
            old.rename(folder / (DISCARDED + old.name))
        _tidy(folder)
    except OSError as error:
        raise RunError(f"cannot write checkpoint {final}: {error.strerror or error}") from error
    return final


def load_checkpoint(folder: Path) -> tuple[FederationState, int] | None:
    """The newest complete state and its ``events_bytes``; None if there is none.

    Raises RunError, naming the file and the way out, if the newest checkpoint is damaged.
    """
    for _ in range(READ_ATTEMPTS):
        complete = _complete(folder)
        if not complete:
            return None
        newest = complete[max(complete)]
        try:
            about = read_bytes(newest / ABOUT_FILE, LIMITS.size)
            blob = read_bytes(newest / STATE_FILE, MOST_BYTES)
            if read_bytes(newest / ABOUT_FILE, LIMITS.size) != about:
                continue  # a run that is still going replaced it between the two reads
        except FileNotFoundError:
            continue  # ... or replaced or dropped it just now: look again
        except OSError as error:
            raise RunError(f"cannot read checkpoint {newest}: {error.strerror or error}") from error
        except FormatError as error:
            raise RunError(f"checkpoint {newest} is damaged: {error}; {_way_out(newest)}") from error
        return _restore(newest, about, blob)
    raise RunError(f"checkpoint {newest} lacks {ABOUT_FILE} or {STATE_FILE}; {_way_out(newest)}")


def newest_round(folder: Path) -> int:
    """The round of the newest complete checkpoint, 0 if there is none; opens no file."""
    return max(_complete(folder), default=0)


# ------------------------------------------------------------------------------------------------ folders


def _complete(folder: Path) -> dict[int, Path]:
    """Round -> its checkpoint folder; one set aside counts as long as its successor is not in place."""
    found: dict[int, Path] = {}
    # looking before and after, because a folder that is being replaced may change its name while we look
    before = [path.name for path in folder.glob("round-*")]
    aside = [path.name for path in folder.glob(f"{REPLACED}*")]
    after = [path.name for path in folder.glob("round-*")]
    for name in aside + before + after:
        match = re.fullmatch(r"round-(\d+)", name.removeprefix(REPLACED))
        if match:
            found[int(match[1])] = folder / name
    return found


def _tidy(folder: Path) -> None:
    """Remove what saving, or a killed writer, left over; put back a checkpoint whose successor never came."""
    for aside in folder.glob(f"{REPLACED}*"):
        place = folder / aside.name.removeprefix(REPLACED)
        # removal is never begun under a name that counts as a checkpoint
        aside.rename(folder / (DISCARDED + place.name) if place.exists() else place)
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


def _describe(state: FederationState, blob: bytes, events_bytes: int) -> dict[str, Any]:
    """What the tensors alone do not say: which parts are empty, who replied, and the replies' numbers."""
    stored = state.personal.versions if isinstance(state.personal, StoredPersonal) else None
    return {
        "format": FORMAT if stored is None else STORED_FORMAT,
        "round": state.round,
        "sha256": hashlib.sha256(blob).hexdigest(),
        "events_bytes": events_bytes,
        "shared": list(state.shared),
        "server": list(state.server),
        "personal": {str(client): list(personal) for client, personal in _held(state).items()},
        **({} if stored is None else {"stored": {str(client): version for client, version in stored.items()}}),
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
            }
            for reply in state.pending
        ],
    }


def _held(state: FederationState) -> Mapping[int, PromptState]:
    """The personal prompts that are part of the checkpoint: none if they are files of their own."""
    return {} if isinstance(state.personal, StoredPersonal) else state.personal


def _number(value: float) -> float | str:
    """JSON has no NaN and no infinity: those go as text, which ``float`` reads back."""
    return value if math.isfinite(value) else str(value)


def _restore(folder: Path, about_bytes: bytes, blob: bytes) -> tuple[FederationState, int]:
    try:
        about = parse_json(about_bytes)
        if about["format"] not in (FORMAT, STORED_FORMAT):
            raise RunError(
                f"checkpoint {folder} has format {about['format']}, this version of promptfed reads {FORMAT} and "
                f"{STORED_FORMAT}; resume the run with the version of promptfed that wrote it"
            )
        digest = hashlib.sha256(blob).hexdigest()
        if digest != about["sha256"]:
            raise RunError(
                f"{folder / STATE_FILE} is damaged: its SHA-256 is {digest[:12]}..., "
                f"{ABOUT_FILE} says {str(about['sha256'])[:12]}...; {_way_out(folder)}"
            )
        tensors = parse_tensors(blob)
        state = FederationState(
            round=int(about["round"]),
            shared=_part(tensors, "shared", about["shared"]),
            server=_part(tensors, "server", about["server"]),
            personal=_personal(folder, about, tensors),
            pending=tuple(_reply(tensors, saved) for saved in about["pending"]),
        )
        return state, int(about["events_bytes"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise RunError(f"{folder / ABOUT_FILE} is damaged ({error!r}); {_way_out(folder)}") from error


def _personal(folder: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Mapping[int, PromptState]:
    if about["format"] == STORED_FORMAT:
        store = PersonalStore(folder.parent / PERSONAL_FOLDER)
        return StoredPersonal(store, {int(client): version for client, version in about["stored"].items()})
    return {int(c): _part(tensors, f"personal/{c}", names) for c, names in about["personal"].items()}


def _part(tensors: Mapping[str, Tensor], prefix: str, names: list[str]) -> PromptState:
    return PromptState({name: tensors[f"{prefix}/{name}"] for name in names})


def _reply(tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> Reply:
    client = int(saved["client"])
    update = Update(
        client=client,
        shared=_part(tensors, f"pending/{client}/shared", saved["shared"]),
        samples=int(saved["samples"]),
        loss=float(saved["loss"]),
        accuracy=float(saved["accuracy"]),
    )
    return Reply(
        client=client,
        round=int(saved["round"]),
        update=update,
        personal=_part(tensors, f"pending/{client}/personal", saved["personal"]),
        seconds=float(saved["seconds"]),
        usage=Usage(**saved["usage"]),
        failure=str(saved.get("failure", "")),
        bytes_up=saved.get("bytes_up"),
        bytes_down=saved.get("bytes_down"),
    )


def _way_out(folder: Path) -> str:
    return f"delete the folder {folder} to go on from the checkpoint before it"
