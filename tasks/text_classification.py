"""The task ``text-classification``: texts sorted into classes by a language model whose gradients can be had."""

from __future__ import annotations

from typing import ClassVar, Literal

from promptfed.config import RunConfig, validate
from promptfed.tasks import blackbox_text
from promptfed.tasks.base import TASKS, Task
from promptfed.tasks.blackbox_text import BlackboxTextConfig
from promptfed.tasks.few_labels import FewLabelsConfig, with_few_labels
from promptfed.tasks.sources.base import Source
from promptfed.types import FederatedTask


class TextClassificationConfig(BlackboxTextConfig, FewLabelsConfig):
    """Source and format of the texts, and how many have a label."""


def build(config: RunConfig, source: Source | None = None) -> FederatedTask:
    """Distribute texts as ``blackbox-text`` does; with the option ``labels``, clients hold unlabelled ones too.

    Raises:
        ConfigError: Options are not allowed.
        DataError: Data are missing or do not fit.
    """
    options = validate(TextClassificationConfig, config.task_options, "task option")
    others = {name: value for name, value in config.task_options.items() if name not in FewLabelsConfig.model_fields}
    task = blackbox_text.build(config.model_copy(update={"task_options": others}), source)
    return with_few_labels(task, options.labels, config.partition_seed)


@TASKS.register("text-classification")
class TextClassification(Task):
    """Sort texts into classes with a language model in the open: prompts and low-rank changes trained by gradients."""

    Config = TextClassificationConfig
    partitions = blackbox_text.BlackboxText.partitions
    data: ClassVar[str] = "texts:requests"
    method: ClassVar[str] = "fedprompt"
    rounds: ClassVar[int] = 10
    backbone: ClassVar[str] = "lm:minilm"
    object_kind: ClassVar[Literal["images", "texts", ""]] = "texts"
    build = staticmethod(build)
