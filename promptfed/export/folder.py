"""The folder that every prompt bundle is: written whole or not at all, read with every file checked.

Nothing in it is pickled, and nothing in it is run when it is read.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from promptfed.agreement import Agreement
from promptfed.errors import BundleError, FormatError
from promptfed.export.origin import BundleOrigin
from promptfed.files.atomic_folder import write_folder
from promptfed.method import Method
from promptfed.printable import LONGEST, printable
from promptfed.prompt_state import PromptState
from promptfed.readers.content import expected_content
from promptfed.readers.files import read_bytes
from promptfed.readers.json_reader import parse_json
from promptfed.readers.tensors import MOST_BYTES
from promptfed.types import ClientPrompt

FORMAT_VERSION = 1
CONFIG, PROMPT, README = "promptfed_config.json", "prompt.safetensors", "README.md"
FEATURES = "class_text_features.safetensors"
TEXT, SOFT, PIXELS = "prompt.txt", "soft_prompt.safetensors", "pixel_prompt.safetensors"
FILES = frozenset({CONFIG, PROMPT, README, FEATURES, TEXT, SOFT, PIXELS})
PARTS = ("shared", "personal", "tuned")


MOST_CLASSES, LONGEST_NAME = 50_000, 10_000
"""Class names of a bundle, and letters of one: a stranger's could ask for a day's work."""
ClassNames = Annotated[
    tuple[Annotated[str, Field(max_length=LONGEST_NAME)], ...], Field(min_length=1, max_length=MOST_CLASSES)
]


class Meta(Agreement):
    """``promptfed_config.json``: the agreement of the run, and what all bundles say beside it."""

    format_version: int = FORMAT_VERSION
    promptfed_version: str
    method: str
    method_options: dict[str, Any]
    classes: ClassNames
    templates: tuple[str, ...] = Field(max_length=MOST_CLASSES)
    client: int
    client_name: str
    alpha: float = Field(1.0, ge=0, le=1, description="how much of the client's own prompt is deployed")
    space: Literal["prompt", "features"] = "features"
    chosen: str = Field("", description="how alpha was chosen")
    origin: BundleOrigin | None = Field(None, description="the run that it comes from")
    sha256: dict[str, str] = Field(default_factory=dict)


M = TypeVar("M", bound=Meta)


class PromptFolder(ABC):
    """One client's prompt with all that is needed to use it."""

    shared: PromptState
    personal: PromptState
    tuned: PromptState

    @property
    @abstractmethod
    def about(self) -> Meta:
        """What its ``promptfed_config.json`` says."""

    @abstractmethod
    def contents(self) -> dict[str, bytes]:
        """File name -> bytes; the same bundle always gives the same bytes."""

    @property
    def prompt(self) -> ClientPrompt:
        return ClientPrompt(self.shared, self.personal, self.about.alpha, self.about.space, self.tuned)

    @property
    def parts(self) -> dict[str, PromptState]:
        """The prompts by the first part of their tensors' names in the file."""
        return {"shared": self.shared, "personal": self.personal, "tuned": self.tuned}

    @property
    def tensors(self) -> list[str]:
        """The tensors in words, for a README."""
        return [f"`{part}/{name}` {tuple(t.shape)}" for part, state in self.parts.items() for name, t in state.items()]

    def check_finite(self) -> None:
        """Raises BundleError for a prompt with numbers that are not finite."""
        if not all(state.is_finite() for state in self.parts.values()):
            raise BundleError(f"the prompt of client {self.about.client} holds numbers that are not finite")


def agreed(
    method: Method,
    name: str,
    prompt: ClientPrompt,
    client: int,
    client_name: str,
    chosen: str,
    origin: BundleOrigin | None,
) -> Any:
    """What ``Meta`` asks for, of ``client``'s ``prompt`` in a run with ``method`` (called ``name``)."""
    return {
        "promptfed_version": version("promptfed"),
        "method": name,
        "method_options": method.config.model_dump(mode="json"),
        **dict(method.setup.agreement),
        "client": client,
        "client_name": client_name,
        "alpha": prompt.alpha,
        "space": prompt.space,
        "chosen": chosen,
        "origin": origin,
    }


@contextmanager
def fitting(bundle: PromptFolder) -> Iterator[None]:
    """Turn what Python and torch raise about tensors that the bundle's method cannot use into a BundleError.

    A file whose checksum is right may be forged all the same: tensors of other names, shapes or types.
    """
    about = bundle.about
    try:
        with expected_content(f"the tensors of client {about.client} for method '{about.method}'", tensors=True):
            yield
    except FormatError as error:
        raise BundleError(f"the bundle's prompt cannot be used: {error}; export it again") from error


# --------------------------------------------------------------------------------------------------- writing


def write_bundle(folder: Path, bundle: PromptFolder, *, overwrite: bool = False) -> Path:
    """Write the bundle whole or not at all, and return ``folder``.

    Raises BundleError if ``folder`` is a file, holds anything but a bundle, or holds a bundle and ``overwrite`` is
    off: a folder with somebody's other files in it is never removed.
    """
    try:
        target = Path(os.path.realpath(folder))  # resolve() raises RuntimeError for links that go round in a circle
        _check_target(folder, target, overwrite)
        write_folder(target, bundle.contents(), FILES)
    except OSError as error:
        raise BundleError(
            f"cannot write bundle '{printable(folder, LONGEST)}': {error.strerror or error}; choose another folder"
        ) from error
    return folder


def _check_target(folder: Path, target: Path, overwrite: bool) -> None:
    """Raise BundleError if what stands at ``target`` must not be replaced."""
    if not target.exists():
        return
    if not target.is_dir():
        raise BundleError(f"cannot write bundle '{folder}': there is a file of that name; choose another folder")
    held = {entry.name for entry in target.iterdir()}
    if not held:
        return
    if CONFIG not in held or held - FILES:
        strange = min(held - FILES) if held - FILES else f"no {CONFIG}"
        raise BundleError(
            f"folder '{folder}' is not empty and no bundle (it holds {strange}); choose a new or an empty folder"
        )
    if not overwrite:
        raise BundleError(
            f"folder '{folder}' already holds a bundle; choose another one, or overwrite it (--overwrite)"
        )


def packed(bundle: PromptFolder) -> bytes:
    """All parts of the prompt as one safetensors file."""
    parts = {f"{part}/{name}": t for part, state in bundle.parts.items() for name, t in state.items()}
    return PromptState(parts).to_bytes()


def checksums(files: Mapping[str, bytes]) -> dict[str, str]:
    """File name -> hex SHA-256."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def config_bytes(meta: Meta) -> bytes:
    return (meta.model_dump_json(indent=2) + "\n").encode()


# --------------------------------------------------------------------------------------------------- reading


def raw_config(folder: Path) -> Any:
    """The JSON in the bundle's config. Raises BundleError for what is no bundle, damaged or of another format."""
    if not folder.is_dir():
        what = "is a file, not a bundle folder" if folder.exists() else "does not exist"
        raise BundleError(f"bundle '{folder}' {what}; 'promptfed export RUN --client K' makes a bundle")
    try:
        found = parse_json(_read(folder, CONFIG))
    except FormatError as error:
        raise BundleError(f"bundle '{folder}' is damaged: {CONFIG} is not JSON ({error}); export it again") from error
    given = found.get("format_version") if isinstance(found, dict) else None
    if isinstance(given, int) and given != FORMAT_VERSION:
        raise BundleError(
            f"bundle '{folder}' has format version {given}, this promptfed reads {FORMAT_VERSION}; "
            "use the promptfed version it was made with, or export it again"
        )
    return found


def read_meta(folder: Path, kind: type[M]) -> M:
    """Raises BundleError naming what is wrong in the config."""
    try:
        return kind.model_validate(raw_config(folder))
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, problem["loc"])) or "its form" for problem in error.errors())
        raise BundleError(f"bundle '{folder}' is damaged: {CONFIG} is wrong in {wrong}; export it again") from error


def verified(folder: Path, name: str, meta: Meta) -> bytes:
    """The file ``name``, which must be what ``meta`` says. Raises BundleError if it is missing or changed."""
    content = _read(folder, name)
    if hashlib.sha256(content).hexdigest() != meta.sha256.get(name):
        raise BundleError(
            f"bundle '{folder}' is damaged: the SHA-256 of {name} is not that in {CONFIG}; export it again"
        )
    return content


def unpacked(content: bytes) -> dict[str, PromptState]:
    """What ``packed`` made, by part. Raises BundleError for tensors of other names, RunError for no safetensors."""
    state = PromptState.from_bytes(content)
    parts = {part: _part(state, part) for part in PARTS}
    if sum(map(len, parts.values())) != len(state):
        raise BundleError("a tensor has a name that does not belong in it")
    return parts


def _read(folder: Path, name: str) -> bytes:
    try:
        return read_bytes(folder / name, MOST_BYTES)
    except FormatError as error:
        raise BundleError(f"bundle '{folder}' is damaged: {error}; export it again") from error
    except OSError as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror or error})"
        raise BundleError(f"bundle '{folder}' is not complete: {name} {why}; export it again") from error


def _part(state: PromptState, part: str) -> PromptState:
    return PromptState({name.removeprefix(f"{part}/"): t for name, t in state.items() if name.startswith(f"{part}/")})
