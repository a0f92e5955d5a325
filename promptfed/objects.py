"""Python objects in the place of names: data, a model, an oracle, and the classes of a method, aggregator or engine.

They are held beside a run's config, never in a file. The config says what each is called and its SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from promptfed.aggregators.base import AGGREGATORS
from promptfed.backbones import load_backbone
from promptfed.backbones.base import Backbone
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureStore
from promptfed.backbones.text_tower_cache import load_text_tower
from promptfed.blackbox.oracle_factory import load_oracle, oracle_around
from promptfed.blackbox.oracles.local.function import FunctionBackend, ScoreFunction
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.code_fingerprint import code_sha256
from promptfed.config import RunConfig, validate
from promptfed.engines.registry import ENGINES
from promptfed.errors import ConfigError, missing_object
from promptfed.examples.episodes import EpisodeForm
from promptfed.examples.series import SeriesForm
from promptfed.forecasters.loading import load_forecaster
from promptfed.forecasters.names import is_forecaster
from promptfed.frozen_model import FrozenModel
from promptfed.language_models.loading import load_language_model
from promptfed.language_models.model import LanguageModel
from promptfed.language_models.names import is_language_model
from promptfed.method import METHODS
from promptfed.oracle_options import OracleOptions
from promptfed.policies.loading import load_policy
from promptfed.policies.names import is_policy
from promptfed.printable import printable
from promptfed.prompt_template import PromptTemplate
from promptfed.registry import Registry
from promptfed.tasks import TASKS
from promptfed.tasks.sources.objects import PREFIX, ObjectData, plain_name
from promptfed.types import FederatedTask

SMALL_TOWERS = ("tiny", "lit")
"""Backbones whose text tower is kept in the cache: a run that looks at no new image then starts without the rest."""
CLASSES: Mapping[str, Registry[Any]] = {"method": METHODS, "aggregator": AGGREGATORS, "engine": ENGINES}
"""Arguments that take a class, and where it is registered under its own name."""


def object_kind_of(task: str) -> Literal["images", "texts"]:
    """Return what ``task`` takes as a Python object, images or texts. Raises ConfigError if it takes none."""
    kind = TASKS[task].object_kind
    if not kind:
        takers = ", ".join(name for name in TASKS if TASKS[name].object_kind)
        raise ConfigError(f"task '{task}' takes data by name only; a Python object goes with {takers}")
    return kind


def function_oracle(score: ScoreFunction, form: PromptTemplate, options: OracleOptions) -> Oracle:
    """Return the oracle that asks the function ``score``, for examples that are put as ``form`` says."""
    backend = FunctionBackend(function_name(score), code_sha256(score), score, form, options.rows)
    return oracle_around(backend, options)


def function_name(score: ScoreFunction) -> str:
    """Return what configs and messages call a function or callable object."""
    return plain_name(getattr(score, "__name__", type(score).__name__))


@dataclass(frozen=True)
class Objects:
    """What a user gave by value.

    Attributes:
        data: The examples.
        model: The frozen model of white-box methods.
        oracle: A function that scores texts.
        classes: Argument ("method", "aggregator", "engine") -> the class that was given, or the engine itself.
    """

    data: ObjectData | None = None
    model: Backbone | LanguageModel | None = None
    oracle: ScoreFunction | None = None
    classes: Mapping[str, Any] = field(default_factory=dict)

    def task_of(self, config: RunConfig) -> FederatedTask:
        """Return the data of ``config``, dealt out. Raises ConfigError if they are an object that is not here."""
        task = TASKS[config.task]
        if not config.data.startswith(PREFIX):
            return task.build(config)
        if self.data is None or self.data.name != config.data:
            raise missing_object("data", config.data)
        object_kind_of(config.task)
        return task.build(config, self.data.source)  # type: ignore[call-arg]

    def model_of(self, config: RunConfig, form: PromptTemplate | None = None) -> FrozenModel:
        """Return the frozen model of ``config``; a black box is asked about examples that are put as ``form`` says.

        Raises ConfigError if it is an object that is not here.
        """
        if config.oracle is not None:
            assert isinstance(form, PromptTemplate), "a black-box task says how its examples are put"
            return self._oracle(config, form)
        if is_forecaster(config.backbone):
            assert isinstance(form, SeriesForm), "a task with series says what its windows look like"
            return load_forecaster(config.backbone, form, device=config.device, precision=config.precision)
        if is_policy(config.backbone):
            assert isinstance(form, EpisodeForm), "a task with episodes says what they look like"
            return load_policy(config.backbone, form, device=config.device, precision=config.precision)
        assert not isinstance(form, (SeriesForm, EpisodeForm)), "their models forecast and act"
        if is_language_model(config.backbone):
            assert form is not None, "a task with texts says how they are put"
            if isinstance(self.model, LanguageModel):
                return self.model.with_form(form)
            return load_language_model(config.backbone, form, device=config.device, precision=config.precision)
        if not config.backbone.startswith(PREFIX):
            load = load_text_tower if config.backbone in SMALL_TOWERS else load_backbone
            backbone = load(config.backbone, device=config.device, precision=config.precision)
            return DualEncoder(FeatureStore(backbone, load_threads=config.load_threads))
        if not isinstance(self.model, Backbone):
            raise missing_object("model", config.backbone)
        return DualEncoder(FeatureStore(self.model, load_threads=config.load_threads))

    def _oracle(self, config: RunConfig, form: PromptTemplate) -> Oracle:
        name, options = config.oracle or "", validate(OracleOptions, config.oracle_options, "oracle option")
        if not name.startswith(PREFIX):
            return load_oracle(name, form, options, device=config.device, precision=config.precision)
        if self.oracle is None:
            raise missing_object("oracle", name)
        return function_oracle(self.oracle, form, options)

    @property
    def parts(self) -> tuple[Any, ...]:
        """All that was given, the examples and data sets of ``data`` one by one."""
        holders = () if self.data is None else self.data.parts
        values = (*holders, self.model, self.oracle, *self.classes.values())
        return tuple(value for value in values if value is not None)

    def register_classes(self) -> None:
        """Register the classes in this process, which may be an actor's. Raises ConfigError."""
        for role, kind in self.classes.items():
            CLASSES[role].adopt(kind)

    def check_classes(self, config: RunConfig) -> None:
        """Raise ConfigError if a class that the run was given is not registered in this process."""
        for role, registry in CLASSES.items():
            name = getattr(config, role)
            if role in config.objects and config.objects[role].name == name and name not in registry:
                raise missing_object(role, name)


NO_OBJECTS = Objects()


def compare(found: RunConfig, config: RunConfig, run: str) -> list[str]:
    """Compare the objects of ``found``, which were given anew, with those that ``run`` was made with (``config``).

    Returns:
        A line for each class whose code is another by now.

    Raises:
        ConfigError: Data, a model or an oracle are others, or the run was made by name.
    """
    lines = []
    for role, record in found.objects.items():
        previous = config.objects.get(role)
        if previous is None:
            raise ConfigError(
                f"run '{printable(run)}' was made with its {role} by name, not a Python object: leave it out"
            )
        if previous.fingerprint == record.fingerprint:
            continue
        if role in CLASSES:
            lines.append(f"{role} {record.name} is not the code that run '{printable(run)}' was made with")
            continue
        raise ConfigError(
            f"the {role} given to run '{printable(run)}' is another than it was made with: SHA-256 "
            f"{record.fingerprint[:12]}, not {printable(previous.fingerprint[:12])}"
        )
    return lines
