"""Options that several commands share beside ``promptfed.commands.flags``, and the config that all options make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from promptfed.commands.flags import Flags, list_options, names_of
from promptfed.config import Options, RunConfig, build_config, in_sections, parse_settings, read_yaml
from promptfed.oracle_options import OracleOptions

Number = str | None
"""Numbers stay text until a config model reads them, so that a bad one gets the same message from every source."""

TrustAddress = Annotated[
    bool,
    typer.Option("--trust-address", help="Use the server that the file names, and remember it: its address is shown."),
]
SameBackbone = Annotated[
    str | None,
    typer.Option("--backbone", help="The same weights in another place, such as open_clip:MODEL/FILE.", metavar="NAME"),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file of options; flags override it.", metavar="FILE")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any option by name: method.lr=0.01, task.val_shots=8, quorum=0.8. promptfed list options shows all.",
        metavar="KEY=VALUE",
    ),
]
Observers = Annotated[
    list[str] | None,
    typer.Option(
        "--observer",
        help="Record the run with tensorboard, wandb, mlflow, trackio or jsonl; options: NAME:KEY=VALUE. Repeatable.",
        metavar="NAME",
        autocompletion=names_of("observers"),
    ),
]


def quiet_option(prints: str) -> Any:
    """Return the flag --quiet of a command.

    Args:
        prints: What the command still prints with the flag, in words.
    """
    return typer.Option("--quiet", "-q", help=f"Print {prints} only (and warnings, on stderr).")


Quiet = Annotated[bool, quiet_option("the run's folder")]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON and nothing else.")]


def given(flags: Mapping[str, Any]) -> Options:
    """Return the flags that the user has set, as config options."""
    options: Options = {
        name: str(value) if isinstance(value, Path) else value for name, value in flags.items() if value is not None
    }
    for name in list_options() & options.keys():
        values = [value.strip() for text in options[name] for value in text.split(",")]
        options[name] = [value for value in values if value and value != "none"]
    return in_sections(options, OracleOptions.model_fields)


def config_from(flags: Flags, config: Path | None, settings: list[str] | None) -> RunConfig:
    """Build the config of a command: defaults < config file < flags < --set.

    Args:
        flags: Option -> the value of its flag, None if it is not set.
        config: A YAML file of options.
        settings: The values of --set.

    Raises:
        ConfigError: The file cannot be read, or an option is unknown or wrong.
    """
    flags = dict(flags)
    is_confirmed = bool(flags.pop("trust_address", False))
    file = read_yaml(config) if config else {}
    typed, settled = given(flags), parse_settings(settings or [])
    return build_config(_admitted(file, typed, settled, f"config file '{config}'", is_confirmed), typed, settled)


def _admitted(file: Options, typed: Options, settled: Options, what: str, is_confirmed: bool) -> Options:
    """Return ``file`` with its trusted server, key variable and cluster. Remember those of the command line."""
    from promptfed.trust import admitted, check_cluster, trust

    command_line = {**_section_of(typed), **_section_of(settled)}
    address, variable = command_line.get("base_url"), command_line.get("api_key_env")
    check_cluster(file.get("ray_address"), what, settled.get("ray_address", typed.get("ray_address")))
    file_section = _section_of(file)
    if file_section.get("base_url") is None and file_section.get("api_key_env") is None:
        if isinstance(address, str):
            trust(address, variable if isinstance(variable, str) else None)
        return file
    trusted = admitted(file_section, what, base_url=address, api_key_env=variable, trust_address=is_confirmed)
    return {**file, "oracle_options": trusted}


def _section_of(options: Options) -> Options:
    section = options.get("oracle_options")
    return section if isinstance(section, dict) else {}
