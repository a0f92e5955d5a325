"""Bundles in repositories of the Hugging Face hub: what is there is listed and checked before anything is fetched."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptfed.cache_dir import cache_folder
from promptfed.errors import BundleError, ConfigError, reason
from promptfed.export.bundle import read_bundle
from promptfed.export.folder import CONFIG, KIND, README
from promptfed.files.export_folder import write_export_folder
from promptfed.printable import LONGEST, printable
from promptfed.readers.files import MEGABYTE, read_bytes

log = logging.getLogger(__name__)
PREFIX = "hf:"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
REVISION = re.compile(r"[\w./-]{1,200}")
BESIDE = frozenset({".gitattributes"})
"""Files that the hub puts into a repository itself; they are never fetched."""
SMALL, LARGE = 16 * MEGABYTE, 2_000 * MEGABYTE
"""Bytes of a text or JSON file, and of one with tensors, that are fetched at most."""


@dataclass(frozen=True)
class HubPlace:
    """A repository of the hub, at a revision; empty: the newest."""

    repository: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def hub_place(text: str) -> HubPlace:
    """Return the repository that ``hf:USER/NAME`` or ``hf:USER/NAME@REVISION`` names. Raises ConfigError for others."""
    repository, _, revision = text.removeprefix(PREFIX).partition("@")
    if not REPOSITORY.fullmatch(repository) or ".." in repository or (revision and not REVISION.fullmatch(revision)):
        raise ConfigError(f"'{printable(text, LONGEST)}' is no repository of the hub: write hf:USER/NAME")
    return HubPlace(repository, revision)


def is_hub(path: Any) -> bool:
    """Return whether ``path`` names a repository of the hub."""
    return str(path).startswith(PREFIX)


def hub_api() -> Any:
    """Return the client of the hub, with the token that the user gave it (``hf auth login``, HF_TOKEN)."""
    from huggingface_hub import HfApi

    return HfApi(library_name="promptfed")


def fetched_bundle(place: HubPlace) -> dict[str, bytes]:
    """Return file name -> content of the bundle in a repository, all of it checked.

    Raises:
        BundleError: The hub cannot be asked, or the repository holds anything but a whole bundle.
    """
    api = hub_api()
    names, commit = _listed(api, place)
    with tempfile.TemporaryDirectory(prefix="promptfed-pull-") as folder:
        for name in names:
            try:
                api.hf_hub_download(place.repository, name, revision=commit, local_dir=folder)
            except Exception as error:  # the hub's client raises many kinds
                raise _unreachable(place, error) from error
        return checked_files(Path(folder), names)


def checked_files(folder: Path, names: list[str]) -> dict[str, bytes]:
    """Return file name -> content of a bundle's files in ``folder``, once the bundle is read and its checksums fit.

    Raises:
        BundleError: It is damaged.
    """
    meta = read_bundle(folder).meta
    known = {CONFIG, README, *meta.sha256}
    if strange := sorted(set(names) - known):
        raise BundleError(
            f"file '{printable(strange[0], LONGEST)}' is not among those that {CONFIG} names: none is taken"
        )
    return {name: read_bytes(folder / name, LARGE) for name in names}


def pulled_folder(place: HubPlace) -> Path:
    """Return the folder in the cache with the bundle of a repository, fetched if its newest commit is not there.

    Where the hub cannot be asked, the last one that was fetched serves, and the log says so.
    """
    home = cache_folder() / "bundles" / place.repository.replace("/", "--")
    wanted = re.sub(r"[^\w.-]", "-", place.revision) or "main"
    try:
        _, commit = _listed(hub_api(), place)
    except BundleError as error:
        last = home / wanted / CONFIG
        if not last.is_file() or not isinstance(error.__cause__, Exception):
            raise
        log.warning("%s; the copy of an earlier time is used", error)
        return last.parent
    folder = home / wanted
    stamp = home / f"{wanted}.commit"
    if not (folder / CONFIG).is_file() or not stamp.is_file() or read_bytes(stamp, 1000).decode() != commit:
        write_export_folder(folder, fetched_bundle(HubPlace(place.repository, commit)), KIND, overwrite=True)
        stamp.write_text(commit, encoding="utf-8")
    return folder


def upload_bundle(place: HubPlace, files: Mapping[str, bytes], *, public: bool, overwrite: bool) -> str:
    """Put ``files`` into a repository in one commit, and return its address.

    Args:
        place: The repository; it is made if there is none.
        files: File name -> content.
        public: Whether a new repository may be seen by everybody.
        overwrite: Whether to replace a bundle that is there.

    Raises:
        BundleError: The hub refuses, or the repository holds other files, or a bundle that must not be replaced.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    api = hub_api()
    try:
        api.create_repo(place.repository, private=not public, exist_ok=True)
        present = {each.rfilename for each in api.model_info(place.repository).siblings or ()} - BESIDE
    except Exception as error:
        raise _unreachable(place, error) from error
    if strange := sorted(present - KIND.files):
        raise BundleError(
            f"{place} holds other files than a bundle ('{printable(strange[0], LONGEST)}'): choose a new repository"
        )
    if CONFIG in present and not overwrite:
        raise BundleError(f"{place} already holds a bundle: choose another name, or replace it (--overwrite)")
    work: list[Any] = [CommitOperationAdd(name, content) for name, content in files.items()]
    work += [CommitOperationDelete(name) for name in sorted(present - set(files))]
    try:
        api.create_commit(place.repository, work, commit_message="A prompt bundle of promptfed")
    except Exception as error:
        raise _unreachable(place, error) from error
    return f"https://huggingface.co/{place.repository}"


def _listed(api: Any, place: HubPlace) -> tuple[list[str], str]:
    """Return the names of the bundle's files in a repository, and the commit. Raises BundleError for anything else."""
    try:
        info = api.model_info(place.repository, revision=place.revision or None, files_metadata=True)
    except Exception as error:
        raise _unreachable(place, error) from error
    names = []
    for each in info.siblings or ():
        name, size = str(each.rfilename), each.size
        if name in BESIDE:
            continue
        if name not in KIND.files:
            raise BundleError(f"{place} holds '{printable(name, LONGEST)}', which no bundle has: nothing is fetched")
        most = LARGE if name.endswith(".safetensors") else SMALL
        if size is None or not 0 <= size <= most:
            raise BundleError(f"{place}: {name} has {size} bytes; at most {most:,} are fetched")
        names.append(name)
    if CONFIG not in names:
        raise BundleError(f"{place} holds no bundle: there is no {CONFIG}")
    return names, str(info.sha)


def _unreachable(place: HubPlace, error: Exception) -> BundleError:
    """Return the error for what the hub's client raised, with what may help."""
    kind = type(error).__name__
    if kind == "OfflineModeIsEnabled":
        return BundleError(f"cannot ask the hub for {place}: HF_HUB_OFFLINE is set; unset it where there is a network")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if kind in ("RepositoryNotFoundError", "RevisionNotFoundError") or status == 404:
        why = "there is no such repository or revision, or it is private and no token is known here"
        return BundleError(f"{place}: {why}; check the name, or log in by `hf auth login`")
    if kind in ("LocalTokenNotFoundError", "GatedRepoError") or status in (401, 403):
        return BundleError(f"the hub refuses {place} ({reason(error)[:200]}): log in by `hf auth login`")
    return BundleError(f"cannot ask the hub for {place} ({reason(error)[:300]}): check the network")
