"""Clients' personal prompts as files: one folder a client, one file a version, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from safetensors.torch import save

from promptfed.errors import FormatError, RunError
from promptfed.files.atomic import PRIVATE, write_bytes
from promptfed.prompt_state import PromptState
from promptfed.readers.tensors import parse_tensors, read_tensor_bytes, tensor_metadata
from promptfed.types import NO_PROMPT

SEAL = "sha256"
"""Key in a file's metadata: the SHA-256 of its prompt."""
MOST_IN_MEMORY = 500
"""Clients whose personal prompts a run in one process holds in memory, and repeats in each checkpoint."""
KEPT_CHECKPOINTS = 3
"""Number of checkpoints whose personal-prompt versions stay on disk."""


class Version(NamedTuple):
    """A personal prompt as a file: the round after which it was written, and its SHA-256."""

    round: int
    sha256: str


class PersonalStore:
    """Personal prompts on disk: ``folder/client-00012/round-0007.safetensors`` is client 12's after round 7.

    A version never changes once written (the same work writes the same bytes), so a checkpoint need only name versions,
    and a run that goes back to an older checkpoint finds its versions.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, client: int, round: int, personal: PromptState) -> Version:
        """Write the prompt of ``client`` after ``round`` and return its version.

        Raises:
            RunError: The disk refuses.
        """
        path, version = self._path(client, round), Version(round, personal.sha256())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, save(dict(personal), {SEAL: version.sha256}), PRIVATE)
        except OSError as error:
            raise RunError(f"cannot keep the personal prompt {path}: {error.strerror or error}") from error
        return version

    def read(self, client: int, round: int, sha256: str | None = None) -> PromptState:
        """Return the version of ``round``; if ``sha256`` is given, it must match.

        Raises:
            RunError: The file is missing or differs from what was written; the message names it.
        """
        path = self._path(client, round)
        try:
            content = read_tensor_bytes(path)
            tensors, seal = parse_tensors(content), tensor_metadata(content).get(SEAL)
        except FormatError as error:
            raise RunError(f"the personal prompt {path} is damaged: {error}") from error
        except OSError as error:
            raise RunError(f"cannot read the personal prompt {path}: {error.strerror or error}") from error
        personal = PromptState(tensors)
        if personal.sha256() != seal or (sha256 or seal) != seal:
            raise RunError(
                f"the personal prompt {path} of client {client} is damaged: its SHA-256 is not the one that was "
                "written; bring the file back from a copy"
            )
        return personal

    def rounds(self, client: int) -> list[int]:
        """Return the rounds whose versions are kept, in rising order."""
        return sorted(int(path.stem.removeprefix("round-")) for path in self._path(client, 0).parent.glob("round-*"))

    def forget(self, client: int, before: int) -> None:
        """Delete the versions of rounds before ``before``."""
        for round in self.rounds(client):
            if round < before:
                self._path(client, round).unlink(missing_ok=True)

    def _path(self, client: int, round: int) -> Path:
        return self.folder / f"client-{client:05d}" / f"round-{round:04d}.safetensors"


class StoredPersonal(Mapping[int, PromptState]):
    """Clients' personal prompts that stay on disk: each is read on access, and none is held in memory.

    ``versions``: client -> its current version; None for the empty prompt, which has no file. It is an immutable value:
    ``update_personal`` makes the next one, and this one still reads its own versions.
    """

    def __init__(self, store: PersonalStore, versions: Mapping[int, Version | None]) -> None:
        self.store, self.versions = store, versions

    @classmethod
    def begin(cls, store: PersonalStore, personal: Mapping[int, PromptState], round: int) -> StoredPersonal:
        """Write ``personal`` as it is after ``round`` to ``store`` and return it as a stored one."""
        return cls(store, dict.fromkeys(personal))._with(personal, round)

    def __getitem__(self, client: int) -> PromptState:
        """Read a client's prompt.

        Raises:
            KeyError: There is no such client.
            RunError: A file is missing or damaged.
        """
        version = self.versions[client]
        return NO_PROMPT if version is None else self.store.read(client, *version)

    def __iter__(self) -> Iterator[int]:
        return iter(self.versions)

    def __len__(self) -> int:
        return len(self.versions)

    def updated(self, changed: Mapping[int, PromptState], round: int) -> StoredPersonal:
        """Return the prompts after ``round``; delete old versions of the changed ones that no kept checkpoint names."""
        result = self._with(changed, round)
        for client in changed:
            old_rounds = [version for version in self.store.rounds(client) if version <= round - KEPT_CHECKPOINTS]
            if old_rounds:
                self.store.forget(client, before=old_rounds[-1])
        return result

    def _with(self, changed: Mapping[int, PromptState], round: int) -> StoredPersonal:
        versions = dict(self.versions)
        for client, personal in changed.items():
            versions[client] = self.store.write(client, round, personal) if len(personal) else None
        return StoredPersonal(self.store, versions)


def rising(clients: Iterable[int]) -> Sequence[int]:
    """Return the numbers in rising order: a range, which holds none of them, where they are all from 0."""
    numbers = sorted(clients)
    everyone = range(len(numbers))
    return everyone if numbers == list(everyone) else numbers


class PersonalPrompts(Mapping[int, PromptState]):
    """Every client's personal prompt, of which only those that training has changed are held.

    The others are the method's initial ones, made on access: a client that never took part costs nothing. An immutable
    value; ``update_personal`` makes the next one.

    Attributes:
        clients: The numbers of all clients, rising.
        initial: Makes the prompt that a client starts with; equal calls give equal prompts.
        changed: Client -> its prompt after training, in memory or on disk.
    """

    def __init__(
        self,
        clients: Sequence[int],
        initial: Callable[[int], PromptState],
        changed: Mapping[int, PromptState] = MappingProxyType({}),
    ) -> None:
        self.clients = clients if isinstance(clients, range) else rising(clients)
        self.initial, self.changed = initial, changed

    def __getitem__(self, client: int) -> PromptState:
        if client in self.changed:
            return self.changed[client]
        if client not in self.clients:
            raise KeyError(client)
        return self.initial(client)

    def __iter__(self) -> Iterator[int]:
        return iter(self.clients)

    def __len__(self) -> int:
        return len(self.clients)

    def holding(self, changed: Mapping[int, PromptState]) -> PersonalPrompts:
        """Return the prompts of the same clients with other ``changed`` ones."""
        result = copy(self)
        result.changed = changed
        return result

    def updated(self, changed: Mapping[int, PromptState], round: int) -> PersonalPrompts:
        """Return the prompts after ``round``; an empty one of a client that starts with an empty one is no change."""
        real = {
            client: prompt
            for client, prompt in changed.items()
            if len(prompt) or client in self.changed or len(self.initial(client))
        }
        return self.holding(update_personal(self.changed, real, round)) if real else self


def update_personal(
    personal: Mapping[int, PromptState], changed: Mapping[int, PromptState], round: int
) -> Mapping[int, PromptState]:
    """Return ``personal`` with the changed prompts of ``round``, in memory or on disk as before."""
    if isinstance(personal, PersonalPrompts | StoredPersonal):
        return personal.updated(changed, round)
    return {**personal, **changed}


def on_disk(personal: Mapping[int, PromptState], folder: Path, round: int) -> Mapping[int, PromptState]:
    """Return ``personal``, as it is after ``round``, with its changed prompts in files below ``folder``."""
    changed = changed_personal(personal)
    if isinstance(changed, StoredPersonal):
        return personal
    stored = StoredPersonal.begin(PersonalStore(folder), changed, round)
    return personal.holding(stored) if isinstance(personal, PersonalPrompts) else stored


def changed_personal(personal: Mapping[int, PromptState]) -> Mapping[int, PromptState]:
    """Return the prompts of ``personal`` that are held, which are all that may differ from the initial ones."""
    return personal.changed if isinstance(personal, PersonalPrompts) else personal


PERSONAL_VERSION = "kept_in_round"
"""Name of the server's stand-in for a personal prompt: the round after which its site stored it."""
