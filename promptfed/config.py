"""RunConfig: everything a run depends on, in one validated object that is saved with the run and can repeat it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from promptfed.errors import ConfigError, FormatError
from promptfed.option import Option
from promptfed.option_complaints import complaints
from promptfed.printable import printable
from promptfed.processor_options import ProcessorOptions
from promptfed.readers.json_reader import HIGHEST, LOWEST
from promptfed.readers.yaml_reader import parse_yaml, read_yaml_file

M = TypeVar("M", bound=BaseModel)
Options = dict[str, Any]
ACCURACY = "accuracy"
"""The measure that every run has: checkpoints and choices are made by it."""
DEEPEST = 50  # levels that the value of an option may be nested
SECTIONS = tuple(f"{name}_options" for name in ("method", "aggregator", "task", "oracle", "attack", "privacy"))


class ObjectRecord(BaseModel):
    """A Python object that a run was given: what it is called, and the SHA-256 by which it is known again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str


class RunConfig(BaseModel):
    """The options of ``promptfed train``; the command line's flags have the same names with dashes.

    Each field says in its ``Option`` where it belongs and how a run may go on with another value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Annotated[str, Option("task", common=True, choices="tasks")] = Field(
        "clip-fewshot", description="what to learn"
    )
    method: Annotated[str, Option("method", common=True, choices="methods")] = Field(
        "promptfl", description="how to learn it"
    )
    backbone: Annotated[
        str,
        Option("model", "moved", common=True, default="tiny; photographs: lit; texts: lm:minilm", choices="backbones"),
    ] = Field("tiny", description="frozen model: tiny, lit, open_clip:MODEL/TAG|FILE, clip-hf:FOLDER, lm:MODEL|FOLDER")
    oracle: Annotated[str | None, Option("oracle", common=True, default="the task's own", choices="oracles")] = Field(
        None, description="black box of a task that has one: minilm, gemma, local:MODEL, clip:BACKBONE, api, embeds"
    )
    data: Annotated[
        str, Option("task", common=True, default="icons; of texts: texts:requests", choices="sources", metavar="SOURCE")
    ] = Field(
        "icons",
        description="images: icons, folder:PATH, hf:NAME[:SPLIT], torchvision:NAME, coop:NAME; "
        "texts: texts:NAME, tsv:PATH, csv:PATH, jsonl:PATH, hf:NAME, synthetic:RUN",
    )
    data_root: Annotated[str | None, Option("task", metavar="DIR")] = Field(
        None, description="folder of coop: and torchvision: data, and of tsv: and jsonl: that are not here"
    )
    clients: Annotated[int | None, Option("task", common=True, default="8, or one a domain", metavar="N")] = Field(
        None, ge=1, description="number of clients"
    )
    rounds: Annotated[int, Option("federation", "raised", common=True, metavar="R")] = Field(
        20, ge=1, description="rounds of federation"
    )
    shots: Annotated[int, Option("task", common=True, metavar="K")] = Field(
        8, ge=1, description="training examples of each class that a client keeps"
    )
    partition: Annotated[
        str, Option("task", common=True, default="classes; own data: auto, by domain, else dirichlet")
    ] = Field("classes", description="who holds what: classes, dirichlet, iid, quantity, domain, auto, csv:FILE, user")
    alpha: Annotated[float, Option("task", common=True, metavar="A")] = Field(
        0.5, gt=0, le=1e9, allow_inf_nan=False, description="Dirichlet concentration: small is uneven"
    )
    participation: Annotated[float, Option("federation", metavar="F")] = Field(
        1.0, gt=0, le=1, description="fraction of the clients that work in a round"
    )
    seed: Annotated[int, Option("run", common=True, metavar="S")] = Field(0, ge=0, description="seed of the training")
    partition_seed: Annotated[int, Option("task", metavar="S")] = Field(0, ge=0, description="seed of the partition")
    aggregator: Annotated[
        str | None,
        Option("aggregator", common=True, default="the method's, else mean", choices="aggregators", metavar="NAME"),
    ] = Field(None, description="how updates are merged")
    dropout: Annotated[float, Option("federation", metavar="P")] = Field(
        0.0, ge=0, lt=1, description="share of the clients' work that is lost (simulated)"
    )
    quorum: Annotated[float, Option("federation", metavar="Q")] = Field(
        0.5, ge=0, le=1, description="share of a round's clients whose updates a merge needs"
    )
    max_weight_share: Annotated[float, Option("aggregator", metavar="W")] = Field(
        0.5, gt=0, le=1, description="largest weight of a client in a round, or twice an even share if that is more"
    )
    round_seconds: Annotated[float | None, Option("federation", "free", default="never", metavar="S")] = Field(
        None, gt=0, description="a round closes after so long, without the rest"
    )
    client_batch: Annotated[int | Literal["auto"], Option("place", metavar="N")] = Field(
        1, description="clients trained side by side, their texts encoded together: a number, or auto"
    )
    client_seconds: Annotated[float | None, Option("place", "free", default="never", metavar="S")] = Field(
        None, gt=0, description="a client that takes longer is stopped, and late"
    )
    engine: Annotated[str, Option("place", "free", choices="engines", metavar="NAME")] = Field(
        "local", description="where clients' work runs: local, ray"
    )
    actors: Annotated[int | None, Option("place", "free", default="as many as have room", metavar="N")] = Field(
        None, ge=1, description="processes of engine ray"
    )
    ray_address: Annotated[str | None, Option("place", "free", default="this machine alone", metavar="ADDR")] = Field(
        None, description="Ray cluster to join: auto or HOST:PORT"
    )
    threads: Annotated[int | None, Option("place", "free", default="one a core; tiny: 1", metavar="N")] = Field(
        None, ge=1, le=1024, description="torch threads in each process; another number rounds differently"
    )
    load_threads: Annotated[int | None, Option("place", "free", default="1; cuda: 8 at most", metavar="N")] = Field(
        None, ge=0, le=256, description="threads that load images ahead of the model, 0 for none: the same features"
    )
    device: Annotated[str, Option("model", "free", common=True)] = Field(
        "cpu", description="where models run: cpu, cuda, cuda:1 or auto"
    )
    precision: Annotated[Literal["float32", "bfloat16", "float16", "int8", "int4"], Option("model")] = Field(
        "float32", description="number format of the frozen model; int8 and int4: language models on CUDA"
    )
    baselines: Annotated[
        tuple[
            Literal[
                "random_allocation",
                "preferred_allocation",
                "lowest_allocation",
                "expert_allocation",
                "trajectory_prompt",
                "persistence",
                "yesterday",
                "affine_output",
                "zero_shot",
                "description_words",
                "majority_answer",
                "question_only",
                "local_only",
            ],
            ...,
        ]
        | None,
        Option(
            "run",
            default="the task's, mostly zero_shot and local_only; the latter not with a paid oracle",
            metavar="A,B|none",
        ),
    ] = Field(None, description="what runs beside the method")
    validate_every: Annotated[int, Option("run", flag=False, metavar="N")] = Field(
        1, ge=0, description="rounds between looks at validation data; 0 is never"
    )
    validate_clients: Annotated[int, Option("run", "free", flag=False, metavar="N")] = Field(
        100, ge=1, description="clients whose validation data are looked at; of more, a fixed sample of so many"
    )
    measures: Annotated[tuple[str, ...], Option("run", "free", flag=False, default="accuracy alone")] = Field(
        (), description="test figures beside accuracy, such as macro_f1 and top_k:3; promptfed list measures"
    )
    selection: Annotated[str, Option("run", flag=False, metavar="MEASURE")] = Field(
        ACCURACY, description="measure by which choices on validation data are made, such as accuracy or nll"
    )
    report_samples: Annotated[
        int | None, Option("run", "free", flag=False, default="12; with differential privacy 0", metavar="N")
    ] = Field(None, ge=0, le=48, description="test examples kept for the report, right and wrong ones; 0 keeps none")
    strict: Annotated[bool, Option("task", "free")] = Field(
        False, description="stop at an unreadable image instead of skipping it"
    )
    processors: Annotated[ProcessorOptions, Option("federation", flag=False)] = Field(
        (), description="what happens to an update before it is sent, such as [clip, {quantize: {format: int8}}]"
    )
    plugins: Annotated[dict[str, str], Option("run", "free", flag=False, recorded=True)] = Field(
        default_factory=dict,
        description="plug-ins that were loaded, and the SHA-256 of each: compared, never imported; --plugin loads one",
    )
    method_options: Annotated[Options, Option("method", flag=False)] = Field(
        default_factory=dict, description="options of the method: --set method.NAME=VALUE"
    )
    aggregator_options: Annotated[Options, Option("aggregator", flag=False)] = Field(
        default_factory=dict, description="options of the aggregator: --set aggregator.NAME=VALUE"
    )
    task_options: Annotated[Options, Option("task", flag=False)] = Field(
        default_factory=dict, description="options of the task: --set task.NAME=VALUE"
    )
    oracle_options: Annotated[Options, Option("oracle", flag=False)] = Field(
        default_factory=dict, description="options of the black box: --set oracle.NAME=VALUE"
    )
    attack_options: Annotated[Options, Option("attack", flag=False, default="no attack")] = Field(
        default_factory=dict, description="malicious clients (simulated): --set attack.name=NAME, attack.OPTION=VALUE"
    )
    privacy_options: Annotated[Options, Option("privacy", flag=False)] = Field(
        default_factory=dict, description="protection of those who hold the data: --set privacy.NAME=VALUE"
    )
    objects: Annotated[dict[str, ObjectRecord], Option("run", flag=False, recorded=True)] = Field(
        default_factory=dict, description="Python objects in the place of names, which no file holds: compared"
    )

    @field_validator("measures", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        """Take names with commas, too. Accuracy, which every run has, is left out, and so are repetitions."""
        names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
        if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
            return tuple(dict.fromkeys(name for name in names if name and name != ACCURACY))
        return names

    @field_validator("client_batch", mode="before")
    @classmethod
    def _check_batch(cls, value: Any) -> Any:
        """Take a number from 1 on, as text too, or "auto"."""
        if value == "auto":
            return value
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if is_number or (isinstance(value, str) and value.strip().isdecimal()):
            value = int(value)
            if value >= 1:
                return value
        raise ValueError("give a number of clients from 1, or auto")

    def __init__(self, **options: Any) -> None:
        """Raise ConfigError for what is wrong with ``options``, in the words of the command line."""
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise ConfigError(complaints(error, type(self), "option")) from error
        _check_switches(options, self, "option")

    @property
    def clients_at_once(self) -> int:
        """``client_batch`` as a number: 1 where it is left to the model, which is not known here."""
        return 1 if self.client_batch == "auto" else self.client_batch

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Only what differs from the defaults is shown."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value != field.get_default(call_default_factory=True):
                yield name, value

    def to_yaml(self) -> str:
        """Return the options as a YAML document."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)


def read_yaml(path: Path, what: str = "config file") -> Options:
    """Read a config file as a dictionary. Raises ConfigError naming the file if it is missing or not a YAML mapping."""
    try:
        data = read_yaml_file(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{what} '{path}' does not exist") from error
    except (OSError, FormatError) as error:
        raise ConfigError(f"cannot read {what} '{path}': {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(data, dict):
        fault = "is empty: it" if data is None else f"holds a {type(data).__name__}, and"
        raise ConfigError(f"{what} '{path}' {fault} must hold 'name: value' lines")
    return data


def parse_settings(settings: Sequence[str]) -> Options:
    """``["method.lr=0.1", "rounds=3"]`` as a nested dictionary of overrides; values are read as YAML."""
    result: Options = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set '{setting}' must look like key=value, for example --set method.lr=0.01")
        section, dot, name = key.partition(".")
        try:
            value = parse_yaml(text)
        except FormatError as error:
            fix = f"as plain text it is --set {printable(key, 80)}='\"{printable(text, 80)}\"'"
            raise ConfigError(f"--set '{printable(setting, 120)}': the value is not YAML ({error}); {fix}") from error
        if dot:
            if f"{section}_options" not in SECTIONS:
                names = ", ".join(s.removesuffix("_options") + ".NAME" for s in SECTIONS)
                raise ConfigError(f"--set '{setting}': unknown section '{section}'; use {names} or a plain option name")
            key, value = f"{section}_options", {name: value}
        result[key] = {**_section(key, result), **_section(key, {key: value})} if key in SECTIONS else value
    return result


def in_sections(options: Mapping[str, Any], of_oracle: Iterable[str]) -> Options:
    """Return ``options`` as a config has them.

    Args:
        options: Options by name. Those in sections stay there.
        of_oracle: The names that are options of a black box: they move into its section.

    Raises:
        ConfigError: The share of classes to be held out is none.
    """
    nested = dict(options)
    oracle = {name: nested.pop(name) for name in of_oracle if name in nested}
    if oracle:
        nested["oracle_options"] = {**_section("oracle_options", nested), **oracle}
    if "hold_out_classes" in nested:
        share = nested.pop("hold_out_classes")
        nested["task_options"] = {**_section("task_options", nested), **held_out_option(share)}
    return nested


def held_out_option(share: Any) -> Options:
    """Return the task option that holds out the ``share`` of the classes which no client trains on.

    Raises ConfigError unless it is a share from 0 to below 1.
    """
    try:
        held_out = float(share)
    except (TypeError, ValueError):
        held_out = -1.0
    if not 0 <= held_out < 1:
        raise ConfigError(f"--hold-out-classes is {str(share)!r}: give a share from 0 (none) to below 1, such as 0.5")
    return {"base_fraction": round(1 - held_out, 12)}


def build_config(*layers: Mapping[str, Any]) -> RunConfig:
    """Merge ``layers`` and validate all at once.

    Raises ConfigError that lists every bad value, what is allowed, and the nearest known name.
    """
    return validate(RunConfig, merge_options(*layers), "option")


def merge_options(*layers: Mapping[str, Any]) -> Options:
    """Return all options of ``layers``: later ones win, and sections merge key by key."""
    result: Options = {}
    for layer in layers:
        for key, value in layer.items():
            result[key] = {**_section(key, result), **_section(key, layer)} if key in SECTIONS else value
    return result


def _section(key: str, values: Mapping[str, Any]) -> Options:
    """Return the options under ``key``, none if it is absent. Raises ConfigError if something else stands there."""
    section = values.get(key, {})
    if not isinstance(section, dict):
        raise ConfigError(f"option '{key}' is {printable(repr(section), 200)}: it must hold 'name: value' lines")
    return section


def validate(model: type[M], values: Mapping[str, Any], kind: str) -> M:
    """``model(**values)``, with pydantic's complaints as one ConfigError line about ``kind``s.

    Refused are also numbers that files cannot hold (beyond 64 bits, infinity, NaN), switches in the place of numbers,
    and what holds itself.
    """
    for name, value in values.items():
        if not isinstance(name, str):
            raise ConfigError(f"unknown {kind} {printable(repr(name), 100)}: names are text")
        _check_depth(value, f"{kind} '{printable(name, 100)}'")
    try:
        validated = model.model_validate(dict(values))
    except ValidationError as error:
        for problem in error.errors():
            if isinstance(inner := problem.get("ctx", {}).get("error"), ConfigError):  # a model that says it itself
                raise inner from error
        raise ConfigError(complaints(error, model, kind)) from error
    for name in model.model_fields:
        _check_numbers(getattr(validated, name), kind, name)
    _check_switches(values, validated, kind)
    return validated


def _check_depth(value: Any, what: str, depth: int = 0) -> None:
    """Raise ConfigError for a value that holds itself, or others beyond ``DEEPEST``."""
    if depth > DEEPEST:
        raise ConfigError(f"{what} holds itself, or values nested more than {DEEPEST} deep: give plain values")
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for part in parts:
        _check_depth(part, what, depth + 1)


def _check_switches(values: Mapping[str, Any], validated: BaseModel, kind: str) -> None:
    """Raise ConfigError for True or False where ``validated`` has a number."""
    for name, value in values.items():
        is_number = type(getattr(validated, name, None)) in (int, float)
        if isinstance(value, bool) and is_number:
            raise ConfigError(f"{kind} '{printable(name, 100)}' is {value}: give a number")


def _check_numbers(value: Any, kind: str, path: str) -> None:
    """Raise ConfigError for a number that files cannot hold; ``path`` names it: ``processors.clip.max_norm``."""
    if isinstance(value, int) and not LOWEST <= value <= HIGHEST:
        raise ConfigError(
            f"{kind} '{path}' is an integer of {value.bit_length()} bits: give one of 63, as it is kept in files"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{kind} '{path}' is {value}: give a finite number")
    parts = [(path, part) for part in value] if isinstance(value, list | tuple) else []
    if isinstance(value, dict):
        parts = [(f"{path}.{printable(name, 100)}", part) for name, part in value.items()]
    for name, part in parts:
        _check_numbers(part, kind, name)
