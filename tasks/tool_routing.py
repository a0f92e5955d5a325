"""The task ``tool-routing``: which of many tools a request is for."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from promptfed.config import RunConfig, validate
from promptfed.tasks import blackbox_text
from promptfed.tasks.base import TASKS, Task
from promptfed.tasks.blackbox_text import BlackboxTextConfig, columns_of, load_texts
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.bundled_texts import FORMS
from promptfed.tasks.sources.tool_descriptions import described, read_descriptions
from promptfed.types import FederatedTask

BUNDLED = "texts:tools"


class ToolRoutingConfig(BlackboxTextConfig):
    """Source and format of the requests, and what each tool is for."""

    descriptions_file: str = Field(
        "", description="JSON {tool: sentence}, or a table with columns tool and description"
    )


def build(config: RunConfig, source: Source | None = None) -> FederatedTask:
    """Distribute requests as texts are; the classes are tools, each with a description.

    Raises:
        ConfigError: Options are not allowed.
        DataError: Data are missing or do not fit, or a tool has no description.
    """
    options = validate(ToolRoutingConfig, config.task_options, "task option")
    source = source or load_texts(config.data, columns_of(options))
    descriptions = dict(options.descriptions)
    if options.descriptions_file:
        descriptions = {**read_descriptions(Path(options.descriptions_file).expanduser()), **descriptions}
    kind, _, name = config.data.partition(":")
    if kind == "texts" and name in FORMS:
        descriptions = {**FORMS[name].descriptions, **descriptions}
    source = described(source, descriptions)
    others = {name: value for name, value in config.task_options.items() if name in BlackboxTextConfig.model_fields}
    return blackbox_text.build(
        config.model_copy(update={"task_options": {**others, "descriptions": dict(source.descriptions)}}), source
    )


@TASKS.register("tool-routing")
class ToolRouting(Task):
    """Send requests to the right one of many tools: what agents know of tools travels, their requests do not."""

    Config = ToolRoutingConfig
    partitions = blackbox_text.BlackboxText.partitions
    data: ClassVar[str] = BUNDLED
    method: ClassVar[str] = "fical"
    rounds: ClassVar[int] = 1
    backbone: ClassVar[str] = "lm:minilm"
    takes_oracle: ClassVar[bool] = True
    measures: ClassVar[tuple[str, ...]] = ("top_k:5",)
    baselines: ClassVar[tuple[str, ...]] = ("zero_shot", "description_words", "local_only")
    object_kind: ClassVar[Literal["images", "texts", ""]] = "texts"
    build = staticmethod(build)
