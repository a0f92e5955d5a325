"""The task ``text-classification``: texts sorted into classes by a language model whose gradients can be had."""

from __future__ import annotations

from typing import ClassVar, Literal

from promptfed.tasks import blackbox_text
from promptfed.tasks.base import TASKS, Task
from promptfed.tasks.blackbox_text import BlackboxTextConfig


class TextClassificationConfig(BlackboxTextConfig):
    """Source and format of the texts."""


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
    build = staticmethod(blackbox_text.build)
