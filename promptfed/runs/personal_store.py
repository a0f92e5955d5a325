"""Clients' personal prompts as files: one folder a client, one file a version, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from promptfed.errors import RunError
from promptfed.prompts import PromptState
from promptfed.runs.atomic import write_bytes


class PersonalStore:
    """``folder/client-00012/round-0007.safetensors`` is what client 12 had after its work in round 7.

    A version never changes once written (the same work writes the same bytes), so a checkpoint need only name versions,
    and a run that goes back to an older checkpoint finds what it had then.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, client: int, round: int, personal: PromptState) -> None:
        """Raises RunError if the disk refuses."""
        path = self._path(client, round)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, personal.to_bytes())
        except OSError as error:
            raise RunError(f"cannot keep the personal prompt {path}: {error.strerror or error}") from error

    def read(self, client: int, round: int) -> PromptState:
        """Raises RunError naming the file if that version is missing or damaged."""
        return PromptState.load(self._path(client, round))

    def rounds(self, client: int) -> list[int]:
        """The rounds whose versions are kept, in rising order."""
        return sorted(int(path.stem.removeprefix("round-")) for path in self._path(client, 0).parent.glob("round-*"))

    def forget(self, client: int, before: int) -> None:
        """Delete the versions of rounds before ``before``."""
        for round in self.rounds(client):
            if round < before:
                self._path(client, round).unlink(missing_ok=True)

    def _path(self, client: int, round: int) -> Path:
        return self.folder / f"client-{client:05d}" / f"round-{round:04d}.safetensors"
