"""The frozen model that a config names, before it is loaded.

``named_model`` is the one place that asks a config what kind of model it names. What follows from the kind is a method
here: which options go with it, which methods, which engines, and what the user should read about it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from promptfed.blackbox.oracle_factory import check_oracle, check_oracle_options
from promptfed.config import RunConfig, validate
from promptfed.errors import ConfigError, RunError
from promptfed.forecasters.names import FORECASTERS, is_forecaster
from promptfed.frozen_model import Kind
from promptfed.language_models.names import is_language_model
from promptfed.oracle_options import OracleOptions
from promptfed.policies.names import POLICIES, is_policy
from promptfed.printable import printable
from promptfed.tasks import TASKS
from promptfed.trust import admitted
from promptfed.usage import ACTING, ENCODING, FORECASTING, READING, Work

PHOTO_BACKBONE = "lit"
"""The backbone of data that are not icons, if nobody names one."""
ICON_BACKBONE, ICON_ORACLE = "tiny", "clip:tiny"


@dataclass(frozen=True)
class ModelOptions:
    """What a command line says about the model of a run.

    Attributes:
        backbone: Another name of the same backbone.
        base_url: The server that is asked.
        api_key_env: The variable that holds its key.
        trust_address: Whether the run's own address may be used.
        asks: Whether the model is asked anything; an export only writes down where it is.
    """

    backbone: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    trust_address: bool = False
    asks: bool = True


def named_model(config: RunConfig) -> NamedModel:
    """Return the model that ``config`` names."""
    if config.oracle is not None:
        return NamedOracle(config)
    if is_forecaster(config.backbone):
        return NamedForecaster(config)
    if is_policy(config.backbone):
        return NamedPolicy(config)
    return NamedLanguageModel(config) if is_language_model(config.backbone) else NamedBackbone(config)


def usual_model(config: RunConfig) -> NamedModel:
    """Return the model of ``config``, which need not be resolved: where it names none, that of its task."""
    task = TASKS[config.task]
    changes: dict[str, Any] = {"oracle": config.oracle or task.oracle}
    if task.backbone and "backbone" not in config.model_fields_set:
        changes["backbone"] = task.backbone
    return named_model(config.model_copy(update=changes))


class Learner(Protocol):
    """What a method says about the models that it works on."""

    access: ClassVar[Literal["white box", "black box", "any"]]
    model_kind: ClassVar[Kind]
    only_texts: ClassVar[bool]
    only_questions: ClassVar[bool]


class NamedModel(ABC):
    """The model of ``config``, by its name."""

    access: ClassVar[str]
    """How methods get at it: "white box" or "black box"."""
    kind: ClassVar[Kind]
    work: ClassVar[Work | None] = None
    """How a run shows what the model did; None: a ledger shows it."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def label(self) -> str:
        """The kind and the name: ``backbone tiny``."""

    @property
    def threads(self) -> int | None:
        """The torch threads of a run: those that the config names, or None for one a core.

        The matrices of a small model are done before a second thread has begun.
        """
        return self.config.threads

    def fits(self, method: type[Learner]) -> bool:
        """Return whether ``method`` works on it."""
        if method.only_texts and TASKS[self.config.task].object_kind != "texts":
            return False
        if method.only_questions and not TASKS[self.config.task].has_questions:
            return False
        if method.access != "white box":
            return method.access in ("any", self.access)
        return self.access == method.access and self.kind == method.model_kind

    @abstractmethod
    def check_task(self) -> None:
        """Raise ConfigError if the config's task does not go with such a model."""

    @abstractmethod
    def checked_options(self) -> dict[str, Any]:
        """Return the options of the config that are the model's alone, with their defaults. Raises ConfigError."""

    @abstractmethod
    def for_photographs(self, given: set[str]) -> dict[str, Any]:
        """Return another model for data that are not icons, as options, unless the user has ``given`` one."""

    @abstractmethod
    def hint(self) -> str:
        """Return what the user should know about the model on photographs; empty: nothing."""

    @abstractmethod
    def with_options(self, changes: Mapping[str, Any], run: Path) -> RunConfig:
        """Return the config of ``run`` with other oracle options. Raises ConfigError for what does not fit."""

    @abstractmethod
    def opened(self, what: str, line: ModelOptions) -> dict[str, Any]:
        """Return what a command with the options ``line`` changes in the config of a run that it opens.

        Raises:
            ConfigError: An option is of the other kind, or the run, which messages call ``what``, names a server or a
                key's variable that the user never used (``promptfed.trust``).
        """

    def check_processes(self, what: str) -> None:
        """Raise ConfigError if clients may not ask it from several processes, as ``what`` would have them do."""

    def check_sites(self) -> None:
        """Raise ConfigError if real sites cannot run it yet."""

    def check_gradients(self, what: str, instead: str) -> None:
        """Raise ConfigError, which says what to do ``instead``, if it gives no gradients and ``what`` needs them."""

    def check_template(self, table: Mapping[str, Any], run: Path) -> None:
        """Raise RunError if the table of a run's clients lacks the template by which the model is asked."""


class NamedBackbone(NamedModel):
    """A dual encoder, whose gradients reach the prompt."""

    access, work = "white box", ENCODING
    kind: ClassVar[Kind] = "dual encoder"

    @property
    def label(self) -> str:
        return f"backbone {self.config.backbone}"

    @property
    def threads(self) -> int | None:
        return self.config.threads or (1 if self.config.backbone == ICON_BACKBONE else None)

    def check_task(self) -> None:
        """Raise ConfigError if the task's examples are texts. Which tasks have a backbone, the config says itself."""
        usual = TASKS[self.config.task].backbone
        if is_policy(usual):
            raise ConfigError(
                f"backbone '{printable(self.config.backbone, 80)}' does not act in episodes, as task "
                f"'{self.config.task}' needs it: use --backbone {' or '.join(POLICIES)}"
            )
        if is_forecaster(usual):
            raise ConfigError(
                f"backbone '{printable(self.config.backbone, 80)}' forecasts no series, which task "
                f"'{self.config.task}' has: use --backbone {' or '.join(FORECASTERS)}"
            )
        if is_language_model(usual):
            raise ConfigError(
                f"backbone '{printable(self.config.backbone, 80)}' reads images, and task '{self.config.task}' has "
                f"texts: use a language model, such as --backbone {usual} or lm:FOLDER"
            )

    def checked_options(self) -> dict[str, Any]:
        if chosen := [name for name, value in self.config.oracle_options.items() if value is not None]:
            raise ConfigError(
                f"oracle option '{printable(chosen[0], 80)}' does not go with task '{self.config.task}', whose model "
                f"is a white box: leave it out, or use --task {_asking_tasks()}"
            )
        return {}

    def for_photographs(self, given: set[str]) -> dict[str, Any]:
        return {} if "backbone" in given else {"backbone": PHOTO_BACKBONE}

    def hint(self) -> str:
        return "" if self.config.backbone != ICON_BACKBONE else _icon_hint(ICON_BACKBONE, "--backbone ")

    def with_options(self, changes: Mapping[str, Any], run: Path) -> RunConfig:
        if changes:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in changes)
            raise ConfigError(f"run '{run}' asks no black box, so there is no budget: leave out {flags}")
        return self.config

    def opened(self, what: str, line: ModelOptions) -> dict[str, Any]:
        if line.base_url or line.api_key_env:
            raise ConfigError(f"{what} asks no black box: leave out --base-url and --api-key-env")
        return {} if line.backbone is None else {"backbone": line.backbone}


class NamedLanguageModel(NamedBackbone):
    """A language model, whose gradients reach the prompt."""

    work = READING
    kind: ClassVar[Kind] = "language model"

    @property
    def label(self) -> str:
        return f"language model {self.config.backbone}"

    @property
    def threads(self) -> int | None:
        return self.config.threads

    def check_task(self) -> None:
        usual = TASKS[self.config.task].backbone
        if is_forecaster(usual) or is_policy(usual):
            super().check_task()
        if not is_language_model(TASKS[self.config.task].backbone):
            texts = [name for name in TASKS if is_language_model(TASKS[name].backbone)]
            raise ConfigError(
                f"backbone '{printable(self.config.backbone, 80)}' is a language model, and task '{self.config.task}' "
                f"asks none for gradients: use --task {', '.join(texts)}"
            )

    def for_photographs(self, given: set[str]) -> dict[str, Any]:
        return {}

    def hint(self) -> str:
        return ""


class NamedForecaster(NamedBackbone):
    """A model that forecasts series, whose gradients reach the prompt."""

    work = FORECASTING
    kind: ClassVar[Kind] = "forecaster"
    does: ClassVar[str] = "forecasts series"

    @property
    def label(self) -> str:
        return f"{self.kind} {self.config.backbone}"

    @staticmethod
    def is_one(backbone: str) -> bool:
        """Return whether a backbone's name is that of such a model."""
        return is_forecaster(backbone)

    @property
    def threads(self) -> int | None:
        return self.config.threads or 1

    def check_task(self) -> None:
        if not self.is_one(TASKS[self.config.task].backbone):
            fitting = [name for name in TASKS if self.is_one(TASKS[name].backbone)]
            raise ConfigError(
                f"backbone '{self.config.backbone}' {self.does}, and task '{self.config.task}' has none: use "
                f"--task {', '.join(fitting)}"
            )

    def check_sites(self) -> None:
        raise ConfigError(
            f"task '{self.config.task}' does not run over sites yet, whose nodes read images and texts: use promptfed "
            "train, with --engine local or ray"
        )

    def for_photographs(self, given: set[str]) -> dict[str, Any]:
        return {}

    def hint(self) -> str:
        return ""


class NamedPolicy(NamedForecaster):
    """A model that acts in episodes, whose gradients reach the prompt."""

    work = ACTING
    kind: ClassVar[Kind] = "policy"
    does: ClassVar[str] = "acts in episodes"

    @staticmethod
    def is_one(backbone: str) -> bool:
        return is_policy(backbone)


class NamedOracle(NamedModel):
    """A black box, which takes prompts and returns scores."""

    access = "black box"
    kind: ClassVar[Kind] = "oracle"

    @property
    def name(self) -> str:
        """What ``--oracle`` takes."""
        assert self.config.oracle is not None, "named_model saw to it"
        return self.config.oracle

    @property
    def label(self) -> str:
        return f"oracle {self.name}"

    @property
    def threads(self) -> int | None:
        return self.config.threads or (1 if self.name == ICON_ORACLE else None)

    def check_task(self) -> None:
        if TASKS[self.config.task].oracle is None and not TASKS[self.config.task].takes_oracle:
            raise ConfigError(
                f"oracle '{self.name}' does not go with task '{self.config.task}', whose model is a white box: "
                f"use --task {_asking_tasks()}"
            )

    def checked_options(self) -> dict[str, Any]:
        check_oracle(self.name)
        options = validate(OracleOptions, self.config.oracle_options, "oracle option")
        check_oracle_options(self.name, options)
        return {"oracle_options": options.model_dump()}

    def for_photographs(self, given: set[str]) -> dict[str, Any]:
        is_of_icons = TASKS[self.config.task].oracle == self.name == ICON_ORACLE
        return {"oracle": f"clip:{PHOTO_BACKBONE}"} if is_of_icons and "oracle" not in given else {}

    def hint(self) -> str:
        return "" if self.name != ICON_ORACLE else _icon_hint(ICON_ORACLE, "--oracle clip:")

    def with_options(self, changes: Mapping[str, Any], run: Path) -> RunConfig:
        if not changes:
            return self.config
        options = {**self.config.oracle_options, **changes}
        named = NamedOracle(self.config.model_copy(update={"oracle_options": options}))
        return self.config.model_copy(update=named.checked_options())

    def opened(self, what: str, line: ModelOptions) -> dict[str, Any]:
        if line.backbone is not None:
            raise ConfigError(f"{what} has a black box and no backbone: leave out --backbone")
        options = self.config.oracle_options
        if not line.asks:
            address = line.base_url or options.get("base_url")
            return {"oracle_options": {**options, "base_url": address, "api_key_env": None}}
        chosen = admitted(
            options, what, base_url=line.base_url, api_key_env=line.api_key_env, trust_address=line.trust_address
        )
        return {"oracle_options": chosen}

    def check_processes(self, what: str) -> None:
        raise ConfigError(
            f"{what} does not go with task '{self.config.task}': a black box's budget, rate limit and concurrency are "
            "kept by one process. Use --engine local with promptfed train; --set oracle.concurrency=N has requests "
            "made side by side"
        )

    def check_gradients(self, what: str, instead: str) -> None:
        raise ConfigError(f"{what} tunes by gradients, and a black box gives none: {instead}")

    def check_template(self, table: Mapping[str, Any], run: Path) -> None:
        if "form" not in table:
            raise RunError(f"{run}/partition.json has no form: promptfed train --resume {run} writes it again")


def _icon_hint(name: str, option: str) -> str:
    return f"'{name}' was trained on drawn icons and hardly knows photographs: {option}{PHOTO_BACKBONE} does"


def _asking_tasks() -> str:
    """Return the names of the tasks whose model is a black box."""
    return ", ".join(name for name in TASKS if TASKS[name].oracle or TASKS[name].takes_oracle)
