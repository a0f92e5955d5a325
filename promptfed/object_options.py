"""From the arguments of ``promptfed.train`` and ``load_run`` to a config and the objects beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from promptfed.aggregators.base import Aggregator
from promptfed.backbones.objects import PRECISIONS, backbone_of, precision_of
from promptfed.blackbox.oracle_factory import ORACLES
from promptfed.code_fingerprint import code_sha256
from promptfed.config import ObjectRecord, Options, RunConfig, build_config, validate
from promptfed.engines.base import Engine
from promptfed.errors import ConfigError
from promptfed.language_models.objects import is_language_object, language_model_of
from promptfed.method import Method
from promptfed.objects import CLASSES, Objects, function_name, object_kind_of
from promptfed.printable import printable
from promptfed.tasks import TASKS
from promptfed.tasks.blackbox_text import BlackboxTextConfig, columns_of
from promptfed.tasks.partitioning import BY_CLIENT
from promptfed.tasks.sources.objects import PREFIX, ObjectData, object_name, read_objects

ARGUMENTS = ("data", "test", "class_names", "model", "oracle", "method", "aggregator", "engine")
"""Arguments that may be Python objects, or belong to one."""
TEXT_TASK, TEXT_METHOD = "blackbox-text", "fedbdpl"
"""What a function for an oracle is asked by, if nobody says: it scores texts, and takes prompts that are texts."""
LANGUAGE_TASK = "text-classification"
"""What a language model is given to do, if nobody says."""
BASES: Mapping[str, type] = {"method": Method, "aggregator": Aggregator, "engine": Engine}


def config_with_objects(file: Mapping[str, Any], options: Options) -> tuple[RunConfig, Objects]:
    """Return the config of ``options`` over those of ``file``, and the Python objects among them.

    Raises:
        ConfigError: An option is unknown or has a bad value, or an object is none that fits.
        DataError: Examples or labels do not fit.
    """
    options = dict(options)
    objects, records = _taken(options, file)
    data, test, class_names = (options.pop(name, None) for name in ("data", "test", "class_names"))
    if data is None or isinstance(data, str | os.PathLike):
        options |= {} if data is None else {"data": os.fspath(data)}
        if odd := [name for name, value in (("test", test), ("class_names", class_names)) if value is not None]:
            raise ConfigError(f"{odd[0]} goes with data that are a Python object, and data is {data!r}: leave it out")
        config = build_config(file, options)
    else:
        config = build_config(file, {**options, "data": PREFIX + object_name(data)})
        objects["data"] = read_data(config, data, test, class_names)
        records["data"] = ObjectRecord(name=objects["data"].name, fingerprint=objects["data"].fingerprint)
        if objects["data"].source.by_client and "partition" not in config.model_fields_set:
            config = config.model_copy(update={"partition": BY_CLIENT})
    if records:
        config = config.model_copy(update={"objects": records})
    return config, Objects(**objects)


def objects_again(config: RunConfig, options: Options) -> tuple[RunConfig, Objects]:
    """Return the objects among ``options``, which a run of ``config`` is loaded with, and the config that they make.

    Raises ConfigError or DataError for an object that does not fit.
    """
    options = {name: value for name, value in options.items() if value is not None}
    if odd := [name for name in ARGUMENTS if isinstance(options.get(name), str)]:
        raise ConfigError(f"{odd[0]} is {options[odd[0]]!r}: a run is loaded with Python objects, not with names")
    if odd := [name for name in ("test", "class_names") if name in options and "data" not in options]:
        raise ConfigError(f"{odd[0]} goes with data, which is not given: give both as promptfed.train had them")
    roles = [role for role in CLASSES if role in options]
    objects, records = _taken(options, {}, precision=config.precision)
    for role in roles:
        if options[role] != getattr(config, role):
            raise ConfigError(
                f"the run was made with {role} '{printable(getattr(config, role))}', and '{options[role]}' was given"
            )
    if (data := options.get("data")) is not None:
        objects["data"] = read_data(config, data, options.get("test"), options.get("class_names"))
        records["data"] = ObjectRecord(name=objects["data"].name, fingerprint=objects["data"].fingerprint)
    return config.model_copy(update={"objects": records}), Objects(**objects)


def _taken(
    options: Options, file: Mapping[str, Any], precision: str | None = None
) -> tuple[dict[str, Any], dict[str, ObjectRecord]]:
    """Replace the objects among ``options``, all but data, by their names; return both."""
    objects: dict[str, Any] = {}
    records: dict[str, ObjectRecord] = {}
    for role, registry in CLASSES.items():
        value = options.get(role)
        if value is None or isinstance(value, str):
            continue
        kind, section = _class_of(role, value, options.get(f"{role}_options"))
        name = registry.adopt(kind)
        options[role] = name
        if section:
            options[f"{role}_options"] = section
        if registry.is_adopted(name):
            objects.setdefault("classes", {})[role] = kind
            records[role] = ObjectRecord(name=name, fingerprint=code_sha256(kind))
    model = options.pop("model", None)
    if model is not None and (options.get("backbone") or file.get("backbone")) is not None:
        raise ConfigError("model and backbone are two names for the same thing: give one of them")
    if isinstance(model, str):
        options["backbone"] = model
    elif model is not None and is_language_object(model):
        language = language_model_of(model, str(options.get("device") or file.get("device") or ""))
        objects["model"] = language
        number_format = PRECISIONS.get(language.dtype, precision or "float32")
        options |= {"backbone": language.name, "device": str(language.device), "precision": number_format}
        records["model"] = ObjectRecord(name=language.name, fingerprint=language.fingerprint)
        if "task" not in options and "task" not in file:
            options["task"] = LANGUAGE_TASK
    elif model is not None:
        backbone = backbone_of(model, str(options.get("device") or file.get("device") or ""))
        objects["model"] = backbone
        name = backbone.name if backbone.name.startswith(PREFIX) else PREFIX + backbone.name
        options |= {"backbone": name, "device": str(backbone.device), "precision": precision_of(backbone, precision)}
        records["model"] = ObjectRecord(name=name, fingerprint=backbone.fingerprint)
    score = options.get("oracle")
    if score is not None and not isinstance(score, str):
        if not callable(score):
            raise ConfigError(
                f"oracle is {printable(repr(score), 80)}: give a name ({', '.join(ORACLES)}) or a function "
                "score(prompts, texts, labels)"
            )
        name = PREFIX + function_name(score)
        objects["oracle"] = score
        records["oracle"] = ObjectRecord(name=name, fingerprint=code_sha256(score))
        options["oracle"] = name
        for option, usual in (("task", TEXT_TASK), ("method", TEXT_METHOD)):
            if option not in options and option not in file:
                options[option] = usual
    return objects, records


def _class_of(role: str, value: Any, section: Any) -> tuple[Any, Options | None]:
    """Return the class of ``value``, a class or an instance, and the options of the latter; an engine stays what it is.

    Raises:
        ConfigError: It is of another kind.
    """
    base = BASES[role]
    kind = value if isinstance(value, type) else type(value)
    if not issubclass(kind, base):
        raise ConfigError(
            f"{role} is {printable(repr(value), 80)}: give a name, or a class or instance of {base.__name__}"
        )
    if isinstance(value, type | Engine):
        return value, None
    if section:
        raise ConfigError(f"{role} is an instance, which has its options: leave out {role}_options")
    if isinstance(value, Aggregator) and (odd := _beyond_config(value)):
        raise ConfigError(
            f"{role} {kind.__name__} holds {odd}, which its Config does not say: a run is made from the class and the "
            "Config, so make it an option there"
        )
    return kind, value.config.model_dump()


def _beyond_config(aggregator: Aggregator) -> str:
    """Return the state of ``aggregator`` that its class does not make of its config; empty for none."""
    try:
        plain = vars(type(aggregator)(aggregator.config))
    except Exception:  # whatever the user's class raises
        return "arguments"
    state = vars(aggregator)
    odd = [name for name in state if name not in plain or repr(state[name]) != repr(plain[name])]
    return ", ".join(map(printable, odd))


def read_data(config: RunConfig, data: Any, test: Any, class_names: Sequence[str] | None) -> ObjectData:
    """Return the examples of the object ``data`` as the task of ``config`` takes them.

    Raises ConfigError or DataError for what does not fit.
    """
    kind, columns = object_kind_of(config.task), None
    options = TASKS[config.task].Config
    if issubclass(options, BlackboxTextConfig):
        columns = columns_of(validate(options, config.task_options, "task option"))
    return read_objects(data, kind, class_names=class_names, test=test, columns=columns, strict=config.strict)
