"""Give a bundle away and take one in: a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from promptfed.errors import BundleError, ConfigError
from promptfed.export.bundle import Bundle, read_bundle
from promptfed.export.card import model_card
from promptfed.export.folder import KIND, README
from promptfed.export.hub import HubPlace, checked_files, fetched_bundle, hub_place, is_hub, upload_bundle
from promptfed.files.export_folder import write_export_folder
from promptfed.files.paths import checked_path
from promptfed.printable import LONGEST, printable

FOLDER = "folder:"
LICENSE = re.compile(r"[A-Za-z0-9][\w.+-]{0,60}")


@dataclass(frozen=True)
class Parcel:
    """What is given away.

    Attributes:
        place: Where it goes: a folder or a repository.
        files: File name -> content.
        notes: What the owner should know before: names in it, what it lacks.
    """

    place: Path | HubPlace
    files: dict[str, bytes]
    notes: list[str] = field(default_factory=list)


def place_of(text: str | os.PathLike[str]) -> Path | HubPlace:
    """Return the place that ``hf:USER/NAME``, ``folder:PATH`` or a path names. Raises ConfigError for what is none."""
    name = os.fspath(text)
    if is_hub(name):
        return hub_place(name)
    return checked_path(name.removeprefix(FOLDER), "the place")


def parcel_of(bundle: Bundle, destination: str, license: str, *, personal: bool = False) -> Parcel:
    """Return what ``bundle`` is as a parcel, with a model card as its README. Nothing is written.

    Args:
        bundle: The bundle.
        destination: As of ``place_of``.
        license: Under which it may be used; an identifier of the hub.
        personal: Whether a client's own prompt may be given away.

    Raises:
        ConfigError: The bundle holds a client's own prompt, the license is no identifier, or the destination no place.
    """
    if not LICENSE.fullmatch(license):
        raise ConfigError(f"license '{printable(license, LONGEST)}' is no identifier: give one such as apache-2.0")
    meta, place = bundle.meta, place_of(destination)
    is_own = any(len(state) for state in (bundle.personal, bundle.tuned))
    if is_own and not personal:
        raise ConfigError(
            f"the bundle holds the own prompt of client {meta.client}, which tells of its data: give away what all "
            "share (promptfed push RUN --shared), or say --personal"
        )
    where = str(place) if isinstance(place, HubPlace) else place.name
    files = {**bundle.contents(), README: model_card(bundle, where, license).encode()}
    names = [f"client '{printable(meta.client_name, LONGEST)}'"]
    if meta.origin is not None and meta.origin.data:
        names.append(f"data '{printable(meta.origin.data, LONGEST)}'")
    if meta.domains:
        names.append(f"domains {', '.join(printable(name, LONGEST) for name in dict.fromkeys(meta.domains))}")
    notes = [f"it names {', '.join(names)} and {len(meta.classes)} classes"]
    if license == "other":
        notes.append("the card says license: other; --license names yours")
    return Parcel(place, files, notes)


def push(parcel: Parcel, *, public: bool = False, overwrite: bool = False) -> str:
    """Write the parcel, and return where it is: a path or an address.

    Args:
        parcel: What is given away.
        public: Whether a new repository may be seen by everybody.
        overwrite: Whether to replace a bundle that is there.

    Raises:
        BundleError: The place is in the way, or the disk or the hub refuses.
    """
    if isinstance(parcel.place, HubPlace):
        return upload_bundle(parcel.place, parcel.files, public=public, overwrite=overwrite)
    write_export_folder(parcel.place, parcel.files, KIND, overwrite)
    return str(parcel.place)


def pull(source: str, target: Path | None = None, *, overwrite: bool = False) -> Path:
    """Take in a bundle: its files' names, sizes and checksums are compared before it is written. Return its folder.

    Args:
        source: As of ``place_of``.
        target: The folder to write; None: one with the last part of the source's name, in the current folder.
        overwrite: Whether to replace a bundle that is there.

    Raises:
        BundleError: The source holds anything but a whole bundle, or the folder is in the way.
    """
    place = place_of(source)
    if isinstance(place, HubPlace):
        files, name = fetched_bundle(place), place.repository.rpartition("/")[2]
    else:
        files, name = _folder_files(place), place.resolve().name
    folder = target or Path(name)
    write_export_folder(folder, files, KIND, overwrite)
    return folder


def _folder_files(folder: Path) -> dict[str, bytes]:
    """Return file name -> content of a bundle's folder. Raises BundleError if it holds anything else."""
    read_bundle(folder)
    names = sorted(entry.name for entry in folder.iterdir())
    if strange := [name for name in names if name not in KIND.files]:
        raise BundleError(
            f"folder '{printable(folder)}' holds '{printable(strange[0], LONGEST)}', which no bundle has: nothing is "
            "taken"
        )
    return checked_files(folder, names)
