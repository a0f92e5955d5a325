"""A run's folder as a command opens it: what it names of servers and files is used only as far as the user says so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptfed.errors import ConfigError

if TYPE_CHECKING:
    from promptfed.runs.directory import RunDirectory

ASKED = ("base_url", "api_key_env")
"""Where a run's black box is asked: options that a command may give anew."""


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

    ``is_asked``: whether its black box may be reached; an export only writes down where it is.

    Raises:
        ConfigError: It names a server or a key's variable that the user never used (``promptfed.trust``), or an option
            is of no use to it.
        RunError: There is no run.
    """
    from promptfed.runs.directory import RunDirectory

    folder = RunDirectory.open(path)
    update: dict[str, Any] = {}
    if folder.config.oracle is None:
        if base_url or api_key_env:
            raise ConfigError(f"run '{path}' asks no black box: leave out --base-url and --api-key-env")
        if backbone is not None:
            update["backbone"] = backbone
    elif not is_asked:
        named = folder.config.oracle_options
        update["oracle_options"] = {**named, "base_url": base_url or named.get("base_url"), "api_key_env": None}
    else:
        if backbone is not None:
            raise ConfigError(f"run '{path}' has a black box and no backbone: leave out --backbone")
        update["oracle_options"] = admitted_oracle(
            folder.config.oracle_options, f"run '{path}'", base_url, api_key_env, trust_address
        )
    folder.config = folder.config.model_copy(update=update)
    return folder


def admitted_oracle(
    named: dict[str, Any], what: str, base_url: str | None, api_key_env: str | None, trust_address: bool
) -> dict[str, Any]:
    """Return the oracle options ``named`` by a file with the address and key variable that may be used."""
    from promptfed.trust import admitted

    return admitted(named, what, base_url=base_url, api_key_env=api_key_env, trust_address=trust_address)
