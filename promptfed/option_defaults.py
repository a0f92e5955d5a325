"""Defaults of a run's options that depend on its task and its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from promptfed.aggregators.base import AGGREGATORS
from promptfed.blackbox.base import BlackBoxMethod
from promptfed.config import RunConfig
from promptfed.language_models.names import absolute_name
from promptfed.method import METHODS, Method
from promptfed.named_model import named_model
from promptfed.privacy_options import PrivacyOptions
from promptfed.tasks.base import TASKS, Task, is_own_data
from promptfed.tasks.partitioning import AUTO

UNDER_ROOT = (
    "tsv",
    "jsonl",
    "csv",
    "json",
    "metatool",
    "feb4rag",
    "testbed",
    "squad",
    "beir",
    "movielens",
    "interactions",
    "easyvqa",
    "vqarad",
)
"""Kinds of data whose path may stand in the folder of downloaded data sets."""
ALL_SHOTS = 1000
"""Examples of a class: more than a run makes synthetic texts."""
ICON_BASE_CLASSES = 24
"""Classes of the bundled icons that clients hold."""


def task_defaults(config: RunConfig, task: type[Task]) -> dict[str, Any]:
    """Return the task's defaults for options that the user has not set."""
    defaults: dict[str, Any] = {
        option: getattr(task, option)
        for option in ("data", "method", "rounds", "measures", "selection")
        if option not in config.model_fields_set
    }
    defaults["oracle"] = config.oracle or task.oracle
    if task.backbone and "backbone" not in config.model_fields_set:
        defaults["backbone"] = task.backbone
    if task.partitions and "partition" not in config.model_fields_set:
        defaults["partition"] = task.partitions[0]
    return {**defaults, **_own_data_defaults(config.model_copy(update=defaults), config.model_fields_set, task)}


def private_defaults(method: type[Method], terms: Mapping[str, Any]) -> dict[str, Any]:
    """Return the method options that differ by default where the server is to learn no more than a sum.

    Under noise the trained prompt is deployed: a choice by validation data would be a release that no noise covers.

    Args:
        method: The run's method.
        terms: The options ``privacy.*``, all of them.
    """
    if not PrivacyOptions.model_validate(terms).needs_sums:
        return {}
    chooses = issubclass(method, BlackBoxMethod) and terms["dp"] == "client"
    return {**method.for_sums, **({"keep_zero_shot": False} if chooses else {})}


def section_defaults(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Return the defaults of the options of the method, the task and the aggregator, as JSON has them.

    A run of an earlier version of promptfed had these of the options that it did not know.
    """
    kinds: dict[str, type[BaseModel]] = {
        "method_options": METHODS[config.method].Config,
        "task_options": TASKS[config.task].Config,
        "aggregator_options": AGGREGATORS[config.aggregator or "mean"].Config,
        "privacy_options": PrivacyOptions,
    }
    return {
        section: {
            name: to_jsonable_python(field.get_default(call_default_factory=True))
            for name, field in kind.model_fields.items()
            if not field.is_required()
        }
        for section, kind in kinds.items()
    }


def _own_data_defaults(config: RunConfig, options_set: set[str], task: type[Task]) -> dict[str, Any]:
    """Return the defaults that differ from the papers' protocol on a user's own data.

    All classes are trained, clients are split by domain where there are domains, and the default model for icons is
    replaced on photographs.

    Args:
        config: The options, with the task's defaults.
        options_set: The names of the options that the user has set: they stay.
        task: The class of the task.
    """
    defaults: dict[str, Any] = {}
    options = config.task_options
    if not is_drawn(config):
        defaults |= named_model(config).for_photographs(options_set)
    if config.data == "icons" and "partition" not in options_set and not task.partitions:
        has_more = config.clients is not None and config.clients > ICON_BASE_CLASSES
        if has_more and not {"base_fraction", "overlap", "classes_per_client"} & set(options):
            defaults["partition"] = AUTO  # disjoint classes are for as many clients as classes at most
    if not is_own_data(config.data, config.partition):
        return defaults
    if "base_fraction" in task.Config.model_fields and "base_fraction" not in options:
        defaults["task_options"] = {**options, "base_fraction": 1.0}
    if config.data.startswith("synthetic:"):
        defaults |= _at_server(config, options_set, task)
    if "partition" not in {*options_set, *defaults} and (not task.partitions or AUTO in task.partitions):
        by_classes = options.get("classes_per_client") or options.get("overlap")
        defaults["partition"] = "classes" if by_classes else "dirichlet" if "alpha" in options_set else AUTO
    return defaults


def _at_server(config: RunConfig, options_set: set[str], task: type[Task]) -> dict[str, Any]:
    """Return the defaults of synthetic texts: the server holds all of them, so there is one client.

    All train, but for a fifth of each class that validates. Where the user says how many clients there are, or who
    holds what, the texts are dealt out as other data are.
    """
    usual: dict[str, Any] = {}
    if "shots" not in options_set:
        fifth = {"val_shots": ALL_SHOTS // 4} if "val_shots" in task.Config.model_fields else {}
        every = {"base_fraction": 1.0} if "base_fraction" in task.Config.model_fields else {}
        usual |= {"shots": ALL_SHOTS, "task_options": {**every, **fifth, **config.task_options}}
    if not options_set & {"clients", "partition", "alpha"}:
        baselines = tuple(name for name in task.baselines if name != "local_only")
        usual |= {"clients": 1, "partition": "iid", "baselines": baselines}
    merged = {"task_options"}  # the user's own are in them
    return {name: value for name, value in usual.items() if name not in options_set - merged}


def is_drawn(config: RunConfig) -> bool:
    """Return whether the data are icons or a task's own drawings, which its default backbone is made for."""
    task = TASKS[config.task]
    if task.backbone and config.data == task.data:
        return True
    return config.data.partition(":")[0] == "icons" and not config.partition.startswith("csv:")


def _absolute(path: str, root: Path | str | None) -> str:
    """Return ``path``, which may be a path in the folder ``root``."""
    place = Path(path).expanduser()
    if root is not None and not place.exists():
        place = Path(root).expanduser() / place
    return str(place.resolve())


def absolute_paths(config: RunConfig) -> dict[str, str]:
    """Return the config's paths as absolute ones, so that a run can be resumed or repeated from any folder."""
    paths = {}
    for option, kinds in (("data", ("folder", "synthetic", *UNDER_ROOT)), ("partition", ("csv",))):
        kind, _, path = getattr(config, option).partition(":")
        if kind in kinds and path:
            root = config.data_root if kind in UNDER_ROOT else None
            names = path.split(",") if kind in ("beir", "interactions") else [path]
            paths[option] = f"{kind}:{','.join(_absolute(name, root) for name in names)}"
    kind, _, path = (config.oracle or "").partition(":")
    if kind == "local" and Path(path).expanduser().is_dir():
        paths["oracle"] = f"{kind}:{Path(path).expanduser().resolve()}"
    if (backbone := absolute_name(config.backbone)) != config.backbone:
        paths["backbone"] = backbone
    if config.data_root is not None:
        paths["data_root"] = str(Path(config.data_root).expanduser().resolve())
    return paths
