"""Folders of models from the Hugging Face hub, or from its cache."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from promptfed.errors import BackboneError, reason
from promptfed.printable import printable

SHOWN = 300


def fetched_folder(
    name: str,
    repository: str,
    attempts: Sequence[Sequence[str]],
    is_whole: Callable[[Path], bool],
    *,
    trouble: str,
    prefix: str,
) -> Path:
    """Return the folder of ``repository``.

    Args:
        name: The backbone, for errors.
        repository: ORG/NAME.
        attempts: Patterns of the files to fetch; the next ones are tried where the folder is not whole then.
        is_whole: Whether the folder has its weights.
        trouble: What the message says of the backbone if there is no folder.
        prefix: What stands before the folder of this machine that the user may name instead.

    Raises:
        BackboneError: It is not cached and cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        for patterns in attempts:
            folder = Path(snapshot_download(repository, allow_patterns=list(patterns)))
            if is_whole(folder):
                break
        return folder
    except Exception as error:  # the hub's client raises many kinds, from connection errors to missing names
        offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON")
        fix = "unset HF_HUB_OFFLINE" if offline else "check the name and the network"
        raise BackboneError(
            f"backbone '{printable(name, SHOWN)}' {trouble} "
            f"({reason(error)}); {fix}, or run `hf download {printable(repository, 100)} --local-dir FOLDER` where "
            f"there is a network and give {prefix}FOLDER"
        ) from error
