"""RUN/personalized: the results of `promptfed personalize` for each client, and the curve over all of them.

    client-K.safetensors    the client's fine-tuned copy of the shared prompt; absent where the method itself trained a
                            personal prompt, which is in the run's checkpoint
    client-K.json           its alpha and why, its accuracies at every alpha, and the origin of all this
    curve.json, .md, .png   the means over clients against alpha

A client's two files are written as soon as it is done, the JSON last: it holds the SHA-256 of the other.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from promptfed.errors import FormatError, RunError
from promptfed.files.atomic import PRIVATE, naming, write_bytes
from promptfed.files.sealed_json import opened_json, sealed_json
from promptfed.printable import printable
from promptfed.prompt_state import PromptState
from promptfed.readers.files import read_bytes
from promptfed.readers.json_reader import LIMITS
from promptfed.readers.tensors import read_tensor_bytes
from promptfed.types import NO_PROMPT, ClientPrompt

FOLDER = "personalized"
CURVE, CURVE_TABLE, CURVE_PLOT = f"{FOLDER}/curve.json", f"{FOLDER}/curve.md", f"{FOLDER}/curve.png"


class TuningOrigin(BaseModel):
    """Origin of a personalised prompt: a run's round and prompts, and all options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: int
    prompt_sha256: str
    method: Literal["finetune", "none"]
    space: Literal["prompt", "features"]
    alphas: tuple[float, ...] = Field(min_length=1)
    lr: float | None = None
    epochs: int | None = None
    l2_to_global: float | None = None


@dataclass(frozen=True)
class AlphaChoice:
    """The alpha a client deploys, its position among the candidates, and the reason in words."""

    alpha: float
    place: int
    why: str


@dataclass(frozen=True)
class ClientCurve:
    """One client's accuracies, one for each alpha; empty where it has no such images.

    ``val`` and ``local``: validation and test images of its own classes, among these. For a client with one class,
    ``val`` is among all base classes, and ``local`` is empty. ``base`` and ``new``: the test images of all base classes
    and of the classes that no client trains on.
    """

    val: tuple[float, ...]
    local: tuple[float, ...]
    base: tuple[float, ...]
    new: tuple[float, ...]
    choice: AlphaChoice


class SavedClient(BaseModel):
    """``client-K.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    client: int
    name: str
    alpha: float = Field(ge=0, le=1)
    why: str
    origin: TuningOrigin
    tuned_sha256: str = ""
    """SHA-256 of client-K.safetensors; empty if there is none."""
    val: tuple[float, ...]
    local: tuple[float, ...]
    base: tuple[float, ...]
    new: tuple[float, ...]

    @model_validator(mode="after")
    def _is_one_of_those_tried(self) -> SavedClient:
        if self.alpha not in self.origin.alphas:
            raise ValueError(f"alpha {self.alpha} is none of {self.origin.alphas}")
        return self

    @property
    def curve(self) -> ClientCurve:
        choice = AlphaChoice(self.alpha, self.origin.alphas.index(self.alpha), self.why)
        return ClientCurve(self.val, self.local, self.base, self.new, choice)


@dataclass(frozen=True)
class Personalized:
    """One client as read back from disk."""

    about: SavedClient
    tuned: PromptState

    def deployed(self, trained: ClientPrompt) -> ClientPrompt:
        """Return the prompt that the client deploys, from the one after training."""
        return ClientPrompt(trained.shared, trained.personal, self.about.alpha, self.about.origin.space, self.tuned)


def prompt_sha256(trained: ClientPrompt) -> str:
    """Return the identity of a client's prompt after training."""
    return hashlib.sha256(f"{trained.shared.sha256()} {trained.personal.sha256()}".encode()).hexdigest()


def save_client(run: Path, about: SavedClient, tuned: PromptState) -> None:
    """Write one client's files, whole or not at all.

    Raises:
        RunError: The disk refuses.
    """
    prompt, sheet = _files(run, about.client)
    content = tuned.to_bytes()
    has_file = bool(len(tuned))
    record = about.model_copy(update={"tuned_sha256": hashlib.sha256(content).hexdigest() if has_file else ""})
    try:
        prompt.parent.mkdir(exist_ok=True)
        if has_file:
            write_bytes(prompt, content, PRIVATE)
        write_bytes(sheet, sealed_json(record.model_dump(mode="json")))
        if not has_file:
            prompt.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {error.filename or sheet}: {error.strerror or error}") from error


def load_client(run: Path, client: int) -> Personalized | None:
    """Return the saved files of ``client``; None if there are none.

    Raises:
        RunError: They are damaged.
    """
    prompt, sheet = _files(run, client)
    if not sheet.exists():
        _check_not_lost(run, client)
        return None
    try:
        about = SavedClient.model_validate_json(json.dumps(opened_json(read_bytes(sheet, LIMITS.size))))
        if about.client != client:
            raise RunError(f"it is of client {about.client}")
        if not about.tuned_sha256:
            return Personalized(about, NO_PROMPT)
        content = read_tensor_bytes(prompt)
        if hashlib.sha256(content).hexdigest() != about.tuned_sha256:
            raise RunError(f"the SHA-256 of {prompt.name} is not the one it names")
        return Personalized(about, PromptState.from_bytes(content))
    except (OSError, ValidationError, FormatError, RunError) as error:
        reason = f"{error.error_count()} wrong values" if isinstance(error, ValidationError) else str(error)
        raise RunError(f"{sheet} is damaged ({reason}); run promptfed personalize {run} again") from error


def _check_not_lost(run: Path, client: int) -> None:
    """Raise RunError if ``client`` has lost its JSON: its prompt or the curve over all is there."""
    prompt, sheet = _files(run, client)
    if sheet.parent.exists() and not sheet.parent.is_dir():
        raise RunError(f"{printable(sheet.parent)} is not a folder: move it away")
    if prompt.exists() or (run / CURVE).exists():
        raise RunError(
            f"{printable(sheet)} is gone, though the run was personalised: run promptfed personalize {printable(run)} "
            "again, or export the shared prompt (--shared)"
        )


def drop_curve(run: Path) -> None:
    """Remove the curve of an earlier personalisation, which the clients' files contradict."""
    for name in (CURVE, CURVE_TABLE, CURVE_PLOT):
        with naming(run / name):
            (run / name).unlink(missing_ok=True)


def _files(run: Path, client: int) -> tuple[Path, Path]:
    return run / FOLDER / f"client-{client}.safetensors", run / FOLDER / f"client-{client}.json"


def client_rows(clients: list[SavedClient]) -> list[dict[str, Any]]:
    """Return the clients as curve.json shows them."""
    return [about.model_dump(include={"client", "name", "alpha", "why", "val", "local"}) for about in clients]
