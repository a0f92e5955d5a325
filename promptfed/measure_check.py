"""Whether the measures of a run can be made of what its model says of its examples."""

from __future__ import annotations

from promptfed.config import ACCURACY, RunConfig
from promptfed.errors import ConfigError
from promptfed.examples.base import ANSWER_CLASSES
from promptfed.examples.episodes import ALLOCATION_CLASSES
from promptfed.examples.series import FORECAST_CLASSES
from promptfed.measures.base import Reads, check_reads
from promptfed.types import FederatedTask

NO_CLASSES: dict[tuple[str, ...], Reads] = {
    ANSWER_CLASSES: "answers",
    FORECAST_CLASSES: "forecasts",
    ALLOCATION_CLASSES: "rewards",
}
"""Classes that stand for outcomes of another kind -> what measures of these read."""


def check_measures(config: RunConfig, task: FederatedTask) -> None:
    """Raise ConfigError for a measure that is not made of what the model says of the task's examples."""
    is_free = task.base_classes == ANSWER_CLASSES
    if config.oracle is None:
        read: Reads = NO_CLASSES.get(task.base_classes, "classes")
        check_reads((*config.measures, config.selection), read, config.task)
    elif is_free and (config.measures or config.selection != ACCURACY):
        raise ConfigError(
            f"measure '{[*config.measures, config.selection][0]}' needs scores of classes, and the answers of task "
            f"'{config.task}' are free text, right or wrong: leave measures and selection out"
        )
    else:
        check_reads((*config.measures, config.selection), "classes", config.task)
