"""The interface of tasks: options of their own, and a recipe for data distributed to clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from promptfed.errors import ConfigError
from promptfed.registry import Registry

if TYPE_CHECKING:  # promptfed.types imports this package
    from promptfed.config import RunConfig
    from promptfed.types import FederatedTask


PROTOCOL_DATA = ("icons", "coop", "texts", "metatool")
"""Kinds of data that are benchmarks: they keep the papers' protocol. All other data are somebody's own."""


def is_own_data(data: str, partition: str = "") -> bool:
    """Return whether the examples are the user's own, by ``--data`` or by a CSV in ``--partition``."""
    return partition.partition(":")[0] == "csv" or data.partition(":")[0] not in PROTOCOL_DATA


def check_clients(clients: int | None, there: int, noun: str = "") -> None:
    """Check ``--clients`` of data that decide themselves how many there are.

    Args:
        clients: What the user asks for; None: nothing.
        there: The number that the data have.
        noun: What they are called.

    Raises:
        ConfigError: They differ.
    """
    if clients not in (None, there):
        have = f"{there} {noun}" if noun else there
        raise ConfigError(f"clients={clients}, but the data have {have}: leave --clients out")


class TaskConfig(BaseModel):
    """Base of every task's options: frozen, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Task(ABC):
    """Recipe of source, partition, few-shot sampling and tests. A new one is a subclass registered in a file here."""

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    partitions: ClassVar[tuple[str, ...]] = ()
    """The partitions that fit, the default first; empty: any."""
    data: ClassVar[str] = "icons"
    """The default data."""
    method: ClassVar[str] = "promptfl"
    """The default method and number of ``rounds``."""
    rounds: ClassVar[int] = 20
    methods: ClassVar[tuple[str, ...]] = ()
    """promptfed's own methods that fit, where what clients hold is no labelled data; empty: any."""
    oracle: ClassVar[str | None] = None
    """The default black box; None: the model is a white box."""
    takes_oracle: ClassVar[bool] = False
    """Whether a black box may take the place of the default white box."""
    measures: ClassVar[tuple[str, ...]] = ()
    """The default measures beside accuracy, and the one that choices on validation data go by."""
    selection: ClassVar[str] = "accuracy"
    method_options: ClassVar[Mapping[str, Any]] = {}
    """The defaults of options that the run's method has and its data call for."""
    backbone: ClassVar[str] = ""
    """The default white box; empty: that of all tasks with images."""
    baselines: ClassVar[tuple[str, ...]] = ("zero_shot", "local_only")
    """What runs beside the method by default."""
    has_questions: ClassVar[bool] = False
    """Whether its examples are questions about images."""
    object_kind: ClassVar[Literal["images", "texts", ""]] = ""
    """What the examples are of data that a user hands over as an object; empty: the task takes only data by name.
    Otherwise ``build`` has a second argument, their source."""

    @staticmethod
    @abstractmethod
    def build(config: RunConfig) -> FederatedTask:
        """Return the data of a run. The same partition options and seed give the same task, whatever the other options.

        Raises:
            ConfigError: Options are not allowed.
            DataError: Data are missing or do not fit.
        """


TASKS: Registry[type[Task]] = Registry("task", "promptfed.tasks", group="promptfed.tasks")
