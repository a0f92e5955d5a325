"""The task ``blackbox-text``: texts sorted into classes by a model that is queried as a black box."""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from promptfed.config import RunConfig, validate
from promptfed.errors import ConfigError, missing_object, unknown_name
from promptfed.prompt_template import PromptTemplate, check_each_has, check_labels, named
from promptfed.tasks import clip_fewshot, synthetic_run
from promptfed.tasks.base import TASKS, Task
from promptfed.tasks.clip_fewshot import DealtConfig
from promptfed.tasks.partitioning import AUTO, BY_CLIENT
from promptfed.tasks.sources import checked
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.bundled_texts import FORMS
from promptfed.tasks.sources.tables import Columns
from promptfed.types import FederatedTask

KINDS = {
    "texts": ("sources.bundled_texts", "texts:reviews, texts:questions, texts:requests or texts:tools"),
    "tsv": ("sources.tsv", "tsv:PATH"),
    "csv": ("sources.csv_texts", "csv:PATH"),
    "metatool": ("sources.metatool", "metatool:DIR"),
    "jsonl": ("sources.jsonl", "jsonl:PATH"),
    "hf": ("sources.hugging_face_texts", "hf:NAME[:SPLIT]"),
    synthetic_run.KIND: ("synthetic_run", "synthetic:RUN"),
}
"""Kind -> the module with its ``source`` function, and how a user writes it."""


class BlackboxTextConfig(DealtConfig):
    """Source and format of the texts."""

    base_fraction: float = Field(1.0, gt=0, le=1, description="share of the classes that clients hold; 1: none is new")
    text_column: str = Field("text", description="column that holds the text")
    label_column: str = Field("label", description="column that holds the label")
    domain_column: str = Field("", description="column that says who holds a text, for --partition domain")
    template: str | None = Field(
        None, description="jinja2 with {{ prompt }}, {{ text }} and, of masked models, {{ mask }}"
    )
    words: dict[str, str] = Field(default_factory=dict, description="class -> label word")
    descriptions: dict[str, str] = Field(default_factory=dict, description="class -> sentence, of embedding models")
    prompts: tuple[str, ...] | None = Field(None, min_length=1, description="hand-written ones, for zero-shot")

    @field_validator("words", "descriptions", mode="before")
    @classmethod
    def _have_names(cls, values: Any) -> Any:
        return named(values)


def columns_of(options: BlackboxTextConfig) -> Columns:
    """Return the columns of tables of texts."""
    return Columns(options.text_column, options.label_column, options.domain_column)


def load_texts(data: str, columns: Columns) -> Source:
    """Load the texts called ``data``.

    Raises:
        ConfigError: The kind is unknown.
        DataError: Data are missing or bad, or hold fewer than two classes.
    """
    return checked(read_texts(data, columns))


def read_texts(data: str, columns: Columns) -> Source:
    """Read the texts called ``data`` as they are, whatever classes they have.

    Raises:
        ConfigError: The kind is unknown.
        DataError: Data are missing or bad.
    """
    kind, _, name = data.partition(":")
    if kind == "object":
        raise missing_object("data", data)
    if kind not in KINDS:
        raise unknown_name("source of texts", kind, [form for _, form in KINDS.values()])
    module, form = KINDS[kind]
    if not name:
        raise ConfigError(f"data source '{data}' lacks its name or path: write {form}")
    source: Source = importlib.import_module(f"promptfed.tasks.{module}").source(name, columns)
    return source


def form_for(data: str, options: BlackboxTextConfig) -> PromptTemplate:
    """Return the template of the bundled texts or of a synthetic run, or the general one, changed by the options.

    Raises:
        ConfigError: It is not a template.
        RunError: There is no such run.
    """
    kind, _, name = data.partition(":")
    if kind == "texts" and name not in FORMS:
        raise unknown_name("bundled texts", name, FORMS)
    usual = FORMS[name] if kind == "texts" else PromptTemplate()
    if kind == synthetic_run.KIND:
        usual = synthetic_run.form_of(name) or usual
    changes: dict[str, Any] = {
        "template": options.template or usual.template,
        "words": {**usual.words, **options.words},
        "descriptions": {**usual.descriptions, **options.descriptions},
        "prompts": options.prompts or usual.prompts,
    }
    return validate(PromptTemplate, changes, "task option")


def build(config: RunConfig, source: Source | None = None) -> FederatedTask:
    """Distribute texts as clip-fewshot distributes images: the same partitions, few-shot draws and tests.

    Raises:
        ConfigError: Options are not allowed.
        DataError: Data are missing or do not fit.
    """
    options = validate(BlackboxTextConfig, config.task_options, "task option")
    source = source or load_texts(config.data, columns_of(options))
    described = {"descriptions": {**source.descriptions, **options.descriptions}}
    options = options.model_copy(update=described)
    form = form_for(config.data, options)
    check_labels(form, source.classes)
    if not config.data.startswith(("texts:", f"{synthetic_run.KIND}:")):  # whose own form may leave a class its name
        check_each_has("words", options.words, source.classes)
        check_each_has("descriptions", options.descriptions, source.classes)
    return clip_fewshot.partition_clients(config, options, source, form.prompts, form)


@TASKS.register("blackbox-text")
class BlackboxText(Task):
    """Sort texts into classes with a model queried as a black box: a sentence encoder, a language model, an API."""

    Config = BlackboxTextConfig
    partitions: ClassVar[tuple[str, ...]] = ("dirichlet", "iid", "quantity", "domain", "classes", AUTO, BY_CLIENT)
    data: ClassVar[str] = "texts:requests"
    method: ClassVar[str] = "fedbpt"
    rounds: ClassVar[int] = 10
    oracle: ClassVar[str | None] = "minilm"
    object_kind: ClassVar[Literal["images", "texts", ""]] = "texts"
    build = staticmethod(build)
