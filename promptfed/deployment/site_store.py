"""The files of a site on its own disk: its personal prompts, the last shared prompt and the agreement.

<state-dir>/<run>/key                                           by which the server recognises the site
<state-dir>/<run>/agreement.json
<state-dir>/<run>/<stage>/client-00012/round-0007.safetensors   the personal prompt after round 7
<state-dir>/<run>/<stage>/sent.safetensors                      the last shared prompt, with its rounds
<state-dir>/<run>/prompt/                                       the bundle that the site deploys, after the last round
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save

from promptfed.deployment.messages import SiteAgreement, Train, Work
from promptfed.errors import DeploymentError, FormatError, RunError
from promptfed.files.atomic import PRIVATE, write_bytes
from promptfed.files.paths import make_private_folder
from promptfed.files.sealed_json import opened_json, sealed_json
from promptfed.method import METHODS, Method
from promptfed.printable import printable
from promptfed.prompt_state import PromptState, tensors_under
from promptfed.readers.files import read_bytes
from promptfed.readers.json_reader import LIMITS
from promptfed.readers.tensors import parse_tensors, read_tensor_bytes, tensor_metadata
from promptfed.runs.personal_store import SEAL, PersonalStore

KEPT_BEHIND = 8
"""Older versions of the personal prompt to keep: a server may go back to an older checkpoint."""
AGAIN = "bring it back from a backup, or wait for the run's next round, which writes it again"
AGREEMENT, SENT, BUNDLE, KEY = "agreement.json", "sent.safetensors", "prompt", "key"


@dataclass(frozen=True)
class Sent:
    """The last shared prompt from the server.

    Attributes:
        shared: The prompt.
        client: The number of the client that it was sent to.
        after: The round after which it was merged.
        start: The round of the personal prompt that belongs to it.
    """

    shared: PromptState
    client: int
    after: int
    start: int


class SiteStore:
    """The files of one run in a site's state directory. Writing raises RunError if the disk refuses."""

    def __init__(self, state_dir: Path, run: str) -> None:
        self.state_dir, self.folder = state_dir, state_dir / run

    def personal(self, method: Method, work: Work) -> PromptState:
        """Return the personal prompt that ``work`` starts from.

        Raises:
            DeploymentError: That version is missing: the directory was lost, or is another one.
        """
        if work.start == 0:
            return method.init_personal(work.client)
        try:
            return self._prompts(work.stage).read(work.client, work.start)
        except RunError as error:
            raise DeploymentError(
                f"the personal prompt of round {work.start} is not in {self.folder / work.stage}: bring the state-dir "
                'back from a backup, or start the node with lost-state="restart" to begin anew'
            ) from error

    def key(self) -> str:
        """Return the site's own secret for this run, made on the first call. The server recognises the site by it."""
        path = self.folder / KEY
        if not path.exists():
            self.write(path, secrets.token_hex(16).encode())
        try:
            return path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise DeploymentError(f"cannot read {path}: {printable(error, 200)}") from error

    def keep(self, work: Work, personal: PromptState) -> None:
        """Write the personal prompt after ``work``, and delete versions that no checkpoint needs any more."""
        store = self._prompts(work.stage)
        store.write(work.client, work.round, personal)
        behind = [round for round in store.rounds(work.client) if round < work.start]
        if len(behind) > KEPT_BEHIND:
            store.forget(work.client, behind[-KEPT_BEHIND])

    def sent(self, work: Work, shared: PromptState) -> None:
        """Write the shared prompt: with it the site can deploy its prompt without the server."""
        tensors = {f"shared/{name}": tensor for name, tensor in shared.items()}
        after = work.round - 1 if isinstance(work, Train) else work.round
        numbers = {"client": work.client, "after": after, "start": work.start}
        state = PromptState({**tensors, **{name: torch.tensor(n) for name, n in numbers.items()}})
        self.write(self.folder / work.stage / SENT, save(dict(state), {SEAL: state.sha256()}))
        content = sealed_json(work.agreement.model_dump(mode="json"))
        if not (path := self.folder / AGREEMENT).exists() or path.read_bytes() != content:
            self.write(path, content)

    def last_sent(self, stage: str) -> Sent:
        """Read the last shared prompt of ``stage``. Raise DeploymentError if there is none, or if it is damaged."""
        path = self.folder / stage / SENT
        if not path.exists():
            raise DeploymentError(f"no prompt of {stage} was sent to this site in run {self.folder.name}")
        try:
            content = read_tensor_bytes(path)
            state, seal = PromptState(parse_tensors(content)), tensor_metadata(content).get(SEAL)
        except (OSError, FormatError) as error:
            raise DeploymentError(f"cannot read {printable(path)}: {printable(error, 200)}; {AGAIN}") from error
        if state.sha256() != seal:
            raise DeploymentError(f"{printable(path)} is damaged: its SHA-256 is not the one that was written; {AGAIN}")
        shared = PromptState(tensors_under(state, "shared/"))
        return Sent(shared, int(state["client"]), int(state["after"]), int(state["start"]))

    def agreement(self) -> SiteAgreement:
        """Read the agreement. Raise DeploymentError if it is missing or damaged."""
        path = self.folder / AGREEMENT
        try:
            return SiteAgreement.read(json.dumps(opened_json(read_bytes(path, LIMITS.size))))
        except (OSError, FormatError, DeploymentError) as error:
            raise DeploymentError(f"cannot read {printable(path)}: {printable(error, 200)}; {AGAIN}") from error

    @property
    def bundle(self) -> Path:
        """The folder of the bundle that the site deploys."""
        return self.folder / BUNDLE

    def _prompts(self, stage: str) -> PersonalStore:
        METHODS[stage]  # a name that is none must not become a path
        return PersonalStore(self.folder / stage)

    def write(self, path: Path, data: bytes) -> None:
        """Write a file that its owner alone can read."""
        try:
            make_private_folder(path.parent)
            write_bytes(path, data, PRIVATE)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def kept_runs(state_dir: Path) -> list[str]:
    """Return the runs with files in ``state_dir``, the latest at the end."""
    agreements = [path for path in state_dir.glob(f"*/{AGREEMENT}") if path.is_file()]
    newest = {path.parent.name: max(p.stat().st_mtime for p in path.parent.rglob("*")) for path in agreements}
    return sorted(newest, key=lambda run: newest[run])
