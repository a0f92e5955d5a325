"""The task ``blackbox-vision``: the images of clip-fewshot, sorted by a model that is queried as a black box."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from promptfed.config import RunConfig, validate
from promptfed.errors import ConfigError
from promptfed.prompt_template import PromptTemplate
from promptfed.tasks import clip_fewshot
from promptfed.tasks import partitioning as partition
from promptfed.tasks.base import TASKS, Task
from promptfed.tasks.clip_fewshot import ClipFewshotConfig
from promptfed.tasks.sources.base import Source
from promptfed.types import FederatedTask


def prompts(templates: Iterable[str]) -> tuple[str, ...]:
    """Return the part before the class name of the ``templates`` that end in it: "a photo of a {}." -> "a photo of a".

    A black box puts the class name after the prompt, so other templates ("a {} icon") are left out.
    """
    ending = (text.rstrip(". ") for text in templates)
    return tuple(dict.fromkeys(text.removesuffix("{}").strip() for text in ending if text.endswith("{}")))


def build(config: RunConfig, source: Source | None = None) -> FederatedTask:
    """Distribute images exactly as clip-fewshot does: the same partitions, few-shot draws, base and new classes.

    Raises:
        ConfigError: Options are not allowed.
        DataError: Data are missing or do not fit.
    """
    options = validate(ClipFewshotConfig, config.task_options, "task option")
    kind, file = partition.parse_partition(config.partition)
    templates = prompts(clip_fewshot.templates(config, options, kind))
    if not templates:
        raise ConfigError(
            f"none of the templates {', '.join(map(repr, options.templates or ()))} ends in the class name, "
            "as a prompt for a black box must: write 'a photo of a {}.'"
        )
    source = source or clip_fewshot.load(config, kind, file)
    return clip_fewshot.partition_clients(config, options, source, templates, PromptTemplate(prompts=templates))


@TASKS.register("blackbox-vision")
class BlackboxVision(Task):
    """Sort images into classes with a vision-language model queried as a black box; some classes stay unseen."""

    Config = ClipFewshotConfig
    method: ClassVar[str] = "zoopfl"
    rounds: ClassVar[int] = 10
    oracle: ClassVar[str | None] = "clip:tiny"
    object_kind: ClassVar[Literal["images", "texts", ""]] = "images"
    build = staticmethod(build)
