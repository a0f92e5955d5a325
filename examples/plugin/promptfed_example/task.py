"""A task: few-shot classification with other defaults."""

from promptfed.tasks.base import TASKS
from promptfed.tasks.clip_fewshot import ClipFewshot


@TASKS.register("short-fewshot")
class ShortFewshot(ClipFewshot):
    """Few-shot classification, in five rounds."""

    rounds = 5
