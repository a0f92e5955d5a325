"""A RunConfig made real: the task, the frozen backbone, its features, and the methods that use them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from promptfed.aggregators.base import AGGREGATORS, Aggregator, build_aggregator
from promptfed.aggregators.mean import Mean
from promptfed.agreement import Agreement
from promptfed.backbones.base import Backbone
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.blackbox.local_only import LocalOnlyWrapper
from promptfed.blackbox.tokens.vocabulary import read_vocabulary
from promptfed.build_method import build_method
from promptfed.class_lengths import check_class_lengths
from promptfed.config import RunConfig, validate
from promptfed.engines.base import Engine, Worker
from promptfed.engines.local import LocalEngine
from promptfed.engines.registry import ENGINES, check_engine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.examples.base import ANSWER_CLASSES
from promptfed.federation import Federation, round_half_up
from promptfed.first_update import first_update
from promptfed.frozen_model import FrozenModel, OnPrepared
from promptfed.measures.base import Measure, build_measures
from promptfed.method import METHODS, Method
from promptfed.named_model import named_model
from promptfed.objects import NO_OBJECTS, Objects
from promptfed.option import in_groups
from promptfed.plugins import check_plugins, loaded_plugins
from promptfed.processors.pipeline import NO_PROCESSORS, Pipeline
from promptfed.processors.pipeline import resolved as resolved_processors
from promptfed.prompt_state import PromptState
from promptfed.prompt_template import PromptTemplate
from promptfed.prompts.initial_words import check_initial_words
from promptfed.setup import Setup
from promptfed.tasks import TASKS
from promptfed.tasks.base import Task, is_own_data
from promptfed.tasks.centralized import centralize
from promptfed.tasks.partitioning import AUTO
from promptfed.types import FederatedTask
from promptfed.used_packages import used_packages

log = logging.getLogger(__name__)
DEFAULT_AGGREGATORS = ("mean",)
TASK_OPTIONS = in_groups(RunConfig, "task")
"""The options that a task is built from; two runs that agree in them have the same data."""
MODEL_OPTIONS = in_groups(RunConfig, "model", "oracle")
"""Two runs that agree in them ask the same model."""


def resolve(config: RunConfig) -> RunConfig:
    """Check every name and option before anything slow happens, and fill in the options' defaults.

    Raises ConfigError for an unknown task, method or aggregator, and for options they do not have.
    """
    warn_of_plugins(config)
    config = complete(config)
    plugins = {**loaded_plugins(), **used_packages(config)}
    return config.model_copy(update={"plugins": plugins, "method_options": read_vocabulary(config.method_options)})


def complete(config: RunConfig) -> RunConfig:
    """As ``resolve``, but plug-ins are not looked at, and no file that an option names is read: a server or another
    person's run may have named it."""
    task = TASKS[config.task]
    config = config.model_copy(update=_task_defaults(config, task))
    method = METHODS[config.method]
    model = named_model(config)
    model.check_task()
    _check_access(config, method)
    if task.partitions and config.partition not in task.partitions:
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
    sections: dict[str, dict[str, Any]] = {
        "task_options": validate(task.Config, config.task_options, "task option").model_dump(),
        "method_options": validate(method.Config, config.method_options, "method option").model_dump(),
        "aggregator_options": validate(aggregator.Config, config.aggregator_options, "aggregator option").model_dump(),
        **model.checked_options(),
    }
    check_initial_words(str(sections["method_options"].get("init") or ""))
    build_measures(config.measures)
    config = config.model_copy(
        update={"aggregator": name, "processors": resolved_processors(config.processors), **sections}
    )
    check_engine(config)
    return config.model_copy(update=_absolute_paths(config))


def warn_of_plugins(config: RunConfig, what: str = "the config") -> None:
    """Warn of plug-ins that are not what they were. Raises ConfigError for one that is not loaded."""
    for line in check_plugins(config.plugins, what):
        log.warning(line)


def _task_defaults(config: RunConfig, task: type[Task]) -> dict[str, Any]:
    """What the task has in the place of options that nobody gave."""
    found: dict[str, Any] = {
        option: getattr(task, option)
        for option in ("data", "method", "rounds")
        if option not in config.model_fields_set
    }
    found["oracle"] = config.oracle or task.oracle
    if task.partitions and "partition" not in config.model_fields_set:
        found["partition"] = task.partitions[0]
    return {**found, **_own_data_defaults(config.model_copy(update=found), config.model_fields_set, task)}


def _own_data_defaults(config: RunConfig, given: set[str], task: type[Task]) -> dict[str, Any]:
    """What differs from the papers' protocol on a user's own data, unless an option was ``given``.

    All classes are trained, clients are by domain where there are domains, and no model for icons looks at photographs.
    """
    found: dict[str, Any] = {}
    options = config.task_options
    if not _is_icons(config):
        found |= named_model(config).for_photographs(given)
    if not is_own_data(config.data, config.partition):
        return found
    if "base_fraction" in task.Config.model_fields and "base_fraction" not in options:
        found["task_options"] = {**options, "base_fraction": 1.0}
    if "partition" not in given and (not task.partitions or AUTO in task.partitions):
        by_classes = options.get("classes_per_client") or options.get("overlap")
        found["partition"] = "classes" if by_classes else "dirichlet" if "alpha" in given else AUTO
    return found


def _is_icons(config: RunConfig) -> bool:
    return config.data.partition(":")[0] == "icons" and not config.partition.startswith("csv:")


def _check_access(config: RunConfig, method: type[Method]) -> None:
    """Raise ConfigError if a white-box method meets a black box, or the other way round."""
    model = named_model(config)
    if not model.fits(method.access):
        fitting = ", ".join(name for name in METHODS if model.fits(METHODS[name].access))
        raise ConfigError(
            f"method '{config.method}' works on a {method.access}, and the model of task '{config.task}' is a "
            f"{model.access}: use one of {fitting}"
        )


def _absolute_paths(config: RunConfig) -> dict[str, str]:
    """The config's relative paths made absolute, so that a run can be resumed or repeated from any folder."""
    found = {}
    for option, kinds in (("data", ("folder", "tsv", "jsonl")), ("partition", ("csv",))):
        kind, _, path = getattr(config, option).partition(":")
        if kind in kinds and path:
            found[option] = f"{kind}:{Path(path).expanduser().resolve()}"
    kind, _, path = (config.oracle or "").partition(":")
    if kind == "local" and Path(path).expanduser().is_dir():
        found["oracle"] = f"{kind}:{Path(path).expanduser().resolve()}"
    if config.data_root is not None:
        found["data_root"] = str(Path(config.data_root).expanduser().resolve())
    return found


@dataclass(frozen=True)
class Experiment:
    """Everything that does not change during a run."""

    config: RunConfig
    task: FederatedTask
    setup: Setup
    given: tuple[str, ...] = ()
    """What was handed over as a value (task, features, oracle) and cannot be made anew from ``config``."""

    def __repr__(self) -> str:
        return f"<experiment: {self.config.method} with {self.config.data}, {self.task!r}, {self.setup.model!r}>"

    @classmethod
    def build(
        cls,
        config: RunConfig,
        like: Experiment | None = None,
        model_for: Callable[[PromptTemplate | None], FrozenModel] | None = None,
        task: FederatedTask | None = None,
        objects: Objects = NO_OBJECTS,
    ) -> Experiment:
        """Deal out the data and load the model of ``config``, which need not be resolved.

        Whatever ``like`` has that would come out the same (task, model, features) is shared with it, not made anew.
        ``model_for``: the very model that ``config`` names, for examples that are put in some template, instead of
        loading it. ``task``: the data, already dealt out. ``objects``: what ``config`` calls Python objects.
        """
        objects.check_classes(config)
        config = complete(config)
        check_plugins(config.plugins, "the run")  # of other code, whoever opened the run has warned
        values = {"task": task, "model": model_for}
        given = tuple(name for name, value in values.items() if value is not None)
        if task is None and like is not None and _agree(config, like.config, TASK_OPTIONS):
            task = like.task
        if task is None:
            task = objects.task_of(config)
            for note in task.notes:
                log.info(note)  # for run.log: whoever watches is told by the caller
        if config.measures and task.base_classes == ANSWER_CLASSES:
            raise ConfigError(
                f"measure '{config.measures[0]}' needs scores of classes, and the answers of task '{config.task}' are "
                "free text, right or wrong: leave measures out"
            )
        if model_for is not None:
            model = model_for(task.form)
        elif like is not None and _agree(config, like.config, MODEL_OPTIONS) and task.form == like.task.form:
            model = like.setup.model
        else:
            model = objects.model_of(config, task.form)
        model.check_offers(METHODS[config.method].requires, f"method '{config.method}'")
        if task.base_classes == ANSWER_CLASSES:
            model.check_offers({"generation"}, f"task '{config.task}'")
        agreement = Agreement(
            classes=task.base_classes,
            templates=task.templates,
            rounds=config.rounds,
            seed=config.seed,
            domains=task.domains,
        )
        built = cls(config, task, Setup(model, agreement), given)
        built.aggregator().check(max(1, round_half_up(config.participation * len(task.clients))))
        built.check_class_names()
        if config.processors:
            built.first_sending()
        return built

    @property
    def baselines(self) -> tuple[str, ...]:
        """What runs beside the method: as chosen, else zero-shot and local-only, which a paid oracle is not asked for:
        it would double the bill."""
        if self.config.baselines is not None:
            return self.config.baselines
        return ("zero_shot",) if self.setup.model.is_paid else ("zero_shot", "local_only")

    @property
    def measures(self) -> dict[str, Measure]:
        """The measures besides accuracy, by name."""
        return build_measures(self.config.measures)

    @property
    def model_notes(self) -> tuple[str, ...]:
        """What a user should know about the model on these data."""
        hint = "" if _is_icons(self.config) else named_model(self.config).hint()
        return (hint,) if hint else ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the data and of the model."""
        return (*self.task.notes, *self.model_notes)

    @property
    def held_out(self) -> list[str]:
        """The domains with tests that no client holds."""
        return [domain for domain in self.task.domain_tests if domain not in self.task.domains]

    def check_feasible(self) -> None:
        """Raise ConfigError if options, data or budget allow the method no step, with the least value that does.

        Nothing is asked of a model.
        """
        method = self.method()
        method.check_feasible((centralize(self.task) if method.is_centralized else self.task).clients)

    def check_class_names(self) -> None:
        """Raise BackboneError for a class name, also of a new class, that is too long for the model's text tower."""
        names, model = (*self.task.base_classes, *self.task.new_classes), self.setup.model
        if isinstance(model, DualEncoder):
            options = self.config.method_options
            n_ctx = max(options.get("n_ctx") or 0, 3 * len(str(options.get("init") or "").split()))
            check_class_lengths(model.backbone, names, self.setup.templates, n_ctx, self.federation)
        elif isinstance(backbone := getattr(self.setup.oracle.backend, "backbone", None), Backbone):
            check_class_lengths(backbone, names, [f"{prompt} {{}}." for prompt in self.setup.templates])

    def fill_features(self, on_progress: OnPrepared | None = None) -> None:
        """Have the model compute once what depends on the examples alone: image features, where it makes any."""
        tests = (self.task.base_test, self.task.new_test, *self.task.domain_tests.values())
        held = (split for data in self.task.clients for split in (data.train, data.val, data.test))
        items = {item.content_id(): item for split in chain(tests, held) for item in split.items}
        patches = "patch features" in METHODS[self.config.method].requires
        self.setup.model.prepare(list(items.values()), on_progress, patches=patches)

    def method(self, name: str | None = None) -> Method:
        """The run's method, or the baseline ``name``, which takes those of the run's options that it knows and that
        somebody chose: the method's own defaults (a generator's learning rate, say) are not for a baseline."""
        name, options = name or self.config.method, self.config.method_options
        if name == "local_only" and not self.setup.model.has_gradients:
            return LocalOnlyWrapper(build_method(self.config.method, options, self.setup), self.aggregator())
        if name != self.config.method:
            known, usual = METHODS[name].Config.model_fields, METHODS[self.config.method].Config.model_fields
            options = {k: v for k, v in options.items() if k in known and v != usual[k].get_default()}
        return build_method(name, options, self.setup)

    def aggregator(self) -> Aggregator:
        return build_aggregator(self.config.aggregator or DEFAULT_AGGREGATORS[0], self.config.aggregator_options)

    def processors(self, stage: str) -> Pipeline:
        """What happens to updates of ``stage`` before they are sent: to those of a baseline, nothing."""
        config = self.config
        return Pipeline.build(config.processors, config.seed) if stage == config.method else NO_PROCESSORS

    def first_sending(self, client: int = 0) -> tuple[PromptState, PromptState]:
        """Return what ``client`` is sent in round 1, and an example of what it sends back, as it travels.

        Raises ConfigError if a processor of the run cannot act on what the method sends.
        """
        method = self.config.method
        broadcast, example = first_update(self.method(), self.aggregator(), client)
        return broadcast, self.processors(method).check(method, example, broadcast)

    def samples(self, method: Method) -> dict[int, int]:
        """Client -> the most examples that its update can stand for: those that it holds, or that its site announced
        in its first message. Zero-shot counts validation examples."""
        held = {data.client: max(data.train.total, data.val.total) for data in self.task.clients}
        return dict.fromkeys(held, sum(held.values())) if method.is_centralized else held

    def worker(self, method: Method, stage: str) -> ClientWorker:
        """What does the clients' work of ``stage``, whose method is ``method``."""
        task = centralize(self.task) if method.is_centralized else self.task
        dropout = self.config.dropout if stage == self.config.method else 0.0
        return ClientWorker(method, task, dropout, self.processors(stage))

    def federation(self, stage: str | None = None, engine: Engine | None = None) -> Federation:
        """The run's federation, or that of the baseline ``stage``, on ``engine`` (by default in this process).

        Baselines are merged (zero-shot's template scores) or not at all: the run's aggregator is not theirs, and they
        are what a reliable federation would reach, without simulated drop-outs and time limit.

        Raises ConfigError if ``engine`` would train on other data, or ask another model, than this experiment has.
        """
        if engine is not None and engine.builds_from_config and self.given:
            raise ConfigError(
                f"engine '{self.config.engine}' makes everything anew from the run's options, in processes of its own, "
                f"and would not have the {' and '.join(self.given)} that was given: use engine 'local'"
            )
        config, stage = self.config, stage or self.config.method
        own = stage == config.method
        method = self.method(stage)
        return Federation(
            method,
            self.aggregator() if own else Mean(Mean.Config()),
            engine or self._stage_engine(self.worker(method, stage)),
            [data.client for data in self.task.clients],
            config.participation,
            config.quorum,
            config.round_seconds if own else None,
            stage,
            self.samples(method),
            config.max_weight_share,
            self.processors(stage),
        )

    def _stage_engine(self, worker: Worker) -> Engine:
        """An engine in this process: the run's, or the local one where the run's is made for all stages at once."""
        engine = ENGINES[self.config.engine].for_stage(worker, self.config)
        return engine or LocalEngine.for_stage(worker, self.config)


def _agree(one: RunConfig, other: RunConfig, options: Sequence[str]) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in options)
