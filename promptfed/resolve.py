"""The options of a run, checked and with all defaults filled in, before anything slow happens."""

from __future__ import annotations

import logging
from typing import Any

from promptfed.aggregators.base import AGGREGATORS
from promptfed.attacks.base import check_attack, checked_options
from promptfed.blackbox.text.public_texts import read_questions
from promptfed.blackbox.tokens.prompt_pool import read_prompts
from promptfed.blackbox.tokens.vocabulary import read_vocabulary
from promptfed.config import RunConfig, validate
from promptfed.engines.registry import check_engine
from promptfed.errors import ConfigError
from promptfed.measures.base import build_measures
from promptfed.measures.selection import Selection
from promptfed.method import METHODS, Method
from promptfed.named_model import named_model, usual_model
from promptfed.option_defaults import absolute_paths, private_defaults, task_defaults
from promptfed.plugins import check_plugins, loaded_plugins
from promptfed.privacy.terms import resolved_terms
from promptfed.processors.pipeline import resolved as resolved_processors
from promptfed.prompts.attributes import read_attributes
from promptfed.prompts.initial_words import check_initial_words
from promptfed.tasks import TASKS
from promptfed.used_packages import used_packages

log = logging.getLogger(__name__)
DEFAULT_AGGREGATORS = ("mean",)


def resolve(config: RunConfig) -> RunConfig:
    """Check every name and option before anything slow happens, and fill in the options' defaults.

    Raises ConfigError for an unknown task, method or aggregator, and for options they do not have.
    """
    warn_of_plugins(config)
    config = complete(config)
    plugins = {**loaded_plugins(), **used_packages(config)}
    options = read_attributes(read_questions(read_prompts(read_vocabulary(config.method_options))))
    return config.model_copy(update={"plugins": plugins, "method_options": options})


def complete(config: RunConfig) -> RunConfig:
    """Resolve the options without the plug-ins, and without reading any file that an option names.

    A server or the run of another person may have named that file.

    Args:
        config: The options, in part or in full.

    Returns:
        The options with all defaults filled in, and with absolute paths.

    Raises:
        ConfigError: A name is unknown, or options do not go together.
    """
    task = TASKS[config.task]
    config = config.model_copy(update=task_defaults(config, task))
    method = METHODS[config.method]
    model = named_model(config)
    model.check_task()
    _check_access(config, method)
    if task.methods and config.method not in task.methods and METHODS.origin(config.method) == "promptfed":
        raise ConfigError(
            f"method '{config.method}' does not go with task '{config.task}', which takes: {', '.join(task.methods)}"
        )
    kind, colon, _ = config.partition.partition(":")
    if task.partitions and not {config.partition, f"{kind}:FILE" if colon else kind} & set(task.partitions):
        raise ConfigError(
            f"partition '{config.partition}' does not go with task '{config.task}', which takes: "
            f"{', '.join(task.partitions)}"
        )
    name = config.aggregator or (method.aggregators or DEFAULT_AGGREGATORS)[0]
    if method.aggregators and name in AGGREGATORS and name not in method.aggregators:
        allowed = ", ".join(method.aggregators)
        raise ConfigError(f"aggregator '{name}' does not go with method '{config.method}', which takes: {allowed}")
    aggregator = AGGREGATORS[name]
    if config.processors and method.trains.startswith("nothing"):
        raise ConfigError(
            f"processors act on what clients train, and method '{config.method}' trains nothing: leave them out"
        )
    terms = resolved_terms(config.privacy_options, config.rounds, config.participation)
    fitting = {name: value for name, value in task.method_options.items() if name in method.Config.model_fields}
    method_options = {**fitting, **private_defaults(method, terms), **config.method_options}
    sections: dict[str, dict[str, Any]] = {
        "task_options": validate(task.Config, config.task_options, "task option").model_dump(),
        "method_options": validate(method.Config, method_options, "method option").model_dump(),
        "aggregator_options": validate(aggregator.Config, config.aggregator_options, "aggregator option").model_dump(),
        "attack_options": checked_options(config.attack_options),
        "privacy_options": terms,
        **model.checked_options(),
    }
    words, field = sections["method_options"].get("init"), method.Config.model_fields.get("init")
    if field is not None and words != field.default:  # a default is never the name of a run
        check_initial_words(str(words or ""))
    build_measures(config.measures)
    Selection.of(config.selection)
    config = config.model_copy(
        update={"aggregator": name, "processors": resolved_processors(config.processors), **sections}
    )
    check_engine(config)
    check_attack(config, method)
    return config.model_copy(update=absolute_paths(config))


def warn_of_plugins(config: RunConfig, what: str = "the config") -> None:
    """Warn of plug-ins that have changed.

    Args:
        config: The options, with the plug-ins that they use.
        what: What names the plug-ins, for the message.

    Raises:
        ConfigError: A plug-in is not loaded.
    """
    for line in check_plugins(config.plugins, what):
        log.warning(line)


def _check_access(config: RunConfig, method: type[Method]) -> None:
    """Raise ConfigError if a white-box method meets a black box, or the other way round."""
    model = named_model(config)
    if not model.fits(method):
        if config.method == "local_only":
            what = model.kind if model.access == method.access else model.access
            raise ConfigError(
                f"method 'local_only' is for a dual encoder; with a {what} it is a baseline, the run's method "
                "without a federation: use --method NAME --baselines local_only"
            )
        fitting = ", ".join(name for name in METHODS if model.fits(METHODS[name]))
        if method.only_texts and TASKS[config.task].object_kind != "texts":
            of_texts = ", ".join(name for name in TASKS if TASKS[name].object_kind == "texts")
            raise ConfigError(
                f"method '{config.method}' sorts texts into classes, and task '{config.task}' has none: use --task "
                f"{of_texts}, or one of {fitting}"
            )
        if method.only_questions and not TASKS[config.task].has_questions:
            of_questions = ", ".join(name for name in TASKS if TASKS[name].has_questions)
            raise ConfigError(
                f"method '{config.method}' answers questions about images, and task '{config.task}' has none: use "
                f"--task {of_questions}, or one of {fitting}"
            )
        needs, has = str(method.access), str(model.access)
        if needs == has:
            needs, has = method.model_kind, model.kind
        tasks = ", ".join(name for name in TASKS if usual_model(RunConfig(task=name)).fits(method))
        raise ConfigError(
            f"method '{config.method}' works on a {needs}, and the model of task '{config.task}' is a {has}: use "
            f"--task {tasks}, or one of {fitting}"
        )
