"""Open a run's folder for a command. Servers and files that it names are used only if the user agrees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from promptfed.runs.directory import RunDirectory

ASKED = ("base_url", "api_key_env")
"""Options of a run's black box that a command may override."""


def open_run(
    path: Path,
    *,
    backbone: str | None = None,
    base_url: str | None = None,
    api_key_env: str | None = None,
    trust_address: bool = False,
    is_asked: bool = True,
) -> RunDirectory:
    """Return the run in ``path``, its config changed in memory to what the command line says.

    ``is_asked``: whether its model may be asked; an export only writes down where it is.

    Raises:
        ConfigError: It names a server or a key's variable that the user never used (``promptfed.trust``), or an option
            does not go with it.
        RunError: There is no run.
    """
    from promptfed.named_model import ModelOptions, named_model
    from promptfed.runs.directory import RunDirectory

    folder = RunDirectory.open(path)
    line = ModelOptions(backbone, base_url, api_key_env, trust_address, is_asked)
    update = named_model(folder.config).opened(f"run '{path}'", line)
    folder.config = folder.config.model_copy(update=update)
    return folder
