"""Command-line options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from promptfed.config import Options, RunConfig, build_config, held_out_option, parse_settings, read_yaml


def names(registry: str) -> Callable[[str], list[str]]:
    """Shell completion from a registry, imported only when a shell asks."""

    def complete(incomplete: str) -> list[str]:
        from promptfed.commands.listing import known

        return [name for name in known(registry) if name.startswith(incomplete)]

    return complete


Number = str | None
"""Numbers stay text until RunConfig reads them, so that a bad one gets the same message from every source."""

Task = Annotated[
    str | None, typer.Option("--task", help="What to learn [clip-fewshot].", autocompletion=names("tasks"))
]
Method = Annotated[
    str | None, typer.Option("--method", help="How to learn it [promptfl].", autocompletion=names("methods"))
]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        help="The frozen model [tiny]: tiny, lit, open_clip:MODEL/TAG or open_clip:MODEL/FILE.",
        autocompletion=names("backbones"),
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Images [icons]: icons, folder:PATH, hf:NAME[:SPLIT], torchvision:NAME, coop:NAME. "
        "Texts [texts:requests]: texts:NAME, tsv:PATH, jsonl:PATH, hf:NAME.",
        metavar="SOURCE",
    ),
]
Oracle = Annotated[
    str | None,
    typer.Option(
        "--oracle",
        help="The black box [the task's]: minilm, gemma, local:MODEL, clip:BACKBONE, api, embeds.",
        autocompletion=names("oracles"),
    ),
]
BaseUrl = Annotated[
    str | None, typer.Option("--base-url", help="Of oracle api or embeds: http://127.0.0.1:8080/v1.", metavar="URL")
]
Model = Annotated[str | None, typer.Option("--model", help="The model's name on that server.")]
ApiKeyEnv = Annotated[
    str | None, typer.Option("--api-key-env", help="Environment variable that holds the API key.", metavar="NAME")
]
TrustAddress = Annotated[
    bool,
    typer.Option("--trust-address", help="Use the server that the file names, and remember it: its address is shown."),
]
SameBackbone = Annotated[
    str | None,
    typer.Option("--backbone", help="The same weights in another place, such as open_clip:MODEL/FILE.", metavar="NAME"),
]
MaxCalls = Annotated[Number, typer.Option("--max-calls", help="Oracle calls that the run may make.", metavar="N")]
MaxTokens = Annotated[Number, typer.Option("--max-tokens", help="Oracle tokens that the run may use.", metavar="N")]
MaxUsd = Annotated[Number, typer.Option("--max-usd", help="US dollars that the run may cost.", metavar="USD")]
Baselines = Annotated[
    str | None,
    typer.Option("--baselines", help="zero_shot,local_only or none [both; zero_shot with a paid oracle]."),
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Folder of coop: and torchvision: data.", metavar="DIR")
]
Clients = Annotated[Number, typer.Option("--clients", help="Number of clients [8, or one a domain].", metavar="N")]
Rounds = Annotated[Number, typer.Option("--rounds", help="Rounds of federation [20].", metavar="R")]
Shots = Annotated[Number, typer.Option("--shots", help="Training images a class and client [8].", metavar="K")]
Partition = Annotated[
    str | None,
    typer.Option(
        "--partition",
        help="Who holds what [classes; own data: auto, by domain, else dirichlet]: classes, dirichlet, iid, domain, "
        "csv:FILE.",
    ),
]
HoldOutClasses = Annotated[
    Number,
    typer.Option(
        "--hold-out-classes",
        help="Share of the classes that no client trains on: the new ones [0; icons and coop: 0.5].",
        metavar="F",
    ),
]
Alpha = Annotated[Number, typer.Option("--alpha", help="Dirichlet concentration [0.5]; small is uneven.", metavar="A")]
Participation = Annotated[
    Number, typer.Option("--participation", help="Fraction of the clients in each round [1].", metavar="F")
]
Aggregator = Annotated[
    str | None,
    typer.Option(
        "--aggregator",
        help="How updates are merged [mean, or the method's own]; promptfed list aggregators shows them.",
        metavar="NAME",
        autocompletion=names("aggregators"),
    ),
]
Dropout = Annotated[
    Number, typer.Option("--dropout", help="Share of clients' work that is lost (simulated) [0].", metavar="P")
]
Quorum = Annotated[
    Number, typer.Option("--quorum", help="Share of a round's clients that a merge needs [0.5].", metavar="Q")
]
MaxWeightShare = Annotated[
    Number,
    typer.Option(
        "--max-weight-share",
        help="Largest weight of one client in a round, or twice an even share if that is more [0.5].",
        metavar="W",
    ),
]
RoundSeconds = Annotated[
    Number, typer.Option("--round-seconds", help="Close a round after so long [never].", metavar="S")
]
ClientBatch = Annotated[
    Number,
    typer.Option("--client-batch", help="Clients trained side by side, faster where texts are few [1].", metavar="N"),
]
ClientSeconds = Annotated[
    Number, typer.Option("--client-seconds", help="Stop a client after so long [never].", metavar="S")
]
Engine = Annotated[str | None, typer.Option("--engine", help="Where clients' work runs [local]: local, ray.")]
Actors = Annotated[
    Number, typer.Option("--actors", help="Processes of engine ray [as many as have room].", metavar="N")
]
Threads = Annotated[
    Number,
    typer.Option("--threads", help="Torch threads in each process [one a core].", metavar="N"),
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", help="Ray cluster to join, auto or HOST:PORT [this machine alone].", metavar="ADDR"),
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or auto [cpu].")]
Precision = Annotated[
    str | None, typer.Option("--precision", help="Of the frozen model [float32]: float32, bfloat16, float16.")
]
Seed = Annotated[Number, typer.Option("--seed", help="Seed of the training [0].", metavar="S")]
PartitionSeed = Annotated[Number, typer.Option("--partition-seed", help="Seed of the partition [0].", metavar="S2")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file of options; flags override it.", metavar="FILE")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any option by name: method.lr=0.01, task.val_shots=8, rounds=5.", metavar="KEY=VALUE"),
]
Strict = Annotated[bool | None, typer.Option("--strict", help="Stop at an unreadable image instead of skipping it.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the run's folder only (and warnings, on stderr).")]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON and nothing else.")]


ORACLE_FLAGS = ("base_url", "model", "api_key_env", "max_calls", "max_tokens", "max_usd")
"""Flags that are options of the oracle."""


def given(flags: dict[str, Any]) -> Options:
    """The flags that the user really gave, as config options."""
    found: Options = {
        name: str(value) if isinstance(value, Path) else value for name, value in flags.items() if value is not None
    }
    oracle = {name: found.pop(name) for name in ORACLE_FLAGS if name in found}
    if oracle:
        found["oracle_options"] = oracle
    if "hold_out_classes" in found:
        found["task_options"] = held_out_option(found.pop("hold_out_classes"))
    if "baselines" in found:
        names = [name.strip() for name in str(found["baselines"]).split(",")]
        found["baselines"] = [name for name in names if name and name != "none"]
    return found


def config_from(flags: dict[str, Any], config: Path | None, settings: list[str] | None) -> RunConfig:
    """Defaults < config file < flags < --set. Raises ConfigError."""
    flags = dict(flags)
    is_confirmed = bool(flags.pop("trust_address", False))
    file = read_yaml(config) if config else {}
    typed, settled = given(flags), parse_settings(settings or [])
    return build_config(_admitted(file, typed, settled, f"config file '{config}'", is_confirmed), typed, settled)


def _admitted(file: Options, typed: Options, settled: Options, what: str, is_confirmed: bool) -> Options:
    """``file`` with the server, key variable and cluster that may be used; those on the command line are remembered."""
    from promptfed.trust import admitted, check_cluster, trust

    line = {**_section_of(typed), **_section_of(settled)}
    address, variable = line.get("base_url"), line.get("api_key_env")
    check_cluster(file.get("ray_address"), what, settled.get("ray_address", typed.get("ray_address")))
    named = _section_of(file)
    if named.get("base_url") is None and named.get("api_key_env") is None:
        if isinstance(address, str):
            trust(address, variable if isinstance(variable, str) else None)
        return file
    used = admitted(named, what, base_url=address, api_key_env=variable, trust_address=is_confirmed)
    return {**file, "oracle_options": used}


def _section_of(options: Options) -> Options:
    section = options.get("oracle_options")
    return section if isinstance(section, dict) else {}
