"""The task ``text-generation``: instructions and questions whose answers a language model learns to write."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from promptfed.config import RunConfig, validate
from promptfed.errors import ConfigError, DataError
from promptfed.examples.base import ANSWER_CLASSES, AnswerItem, Sample
from promptfed.prompt_template import PromptTemplate
from promptfed.tasks.base import TASKS, Task
from promptfed.tasks.clip_fewshot import DealtConfig
from promptfed.tasks.cot import BUNDLED, RIGHT, distribute, parts_of
from promptfed.tasks.sources import consistent
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.instructions import InstructionColumns, instruction_rows
from promptfed.types import ClientData, FederatedTask, Split

TEMPLATE = "{% if prompt %}{{ prompt }}\n{% endif %}{{ text }}\nAnswer:"
PROMPTS = ("", "Answer the question.", "Follow the instruction.")
MARK = "####"
"""What stands before the final answer of a worked one, as GSM8K has it."""
TESTS = 64
"""Answers that are written in a test, by default."""


class TextGenerationConfig(DealtConfig):
    """Source and format of the questions. ``test_per_class`` limits all test questions, which are one class."""

    base_fraction: float = Field(1.0, ge=1, le=1, description="not used: there are no new classes")
    test_per_class: int | None = Field(TESTS, ge=1, description="limit on the test questions; null: all")
    question_column: str = Field("", description="column of the question; empty: question, instruction or prompt")
    answer_column: str = Field("", description="column of the answer; empty: answer, output, completion or response")
    domain_column: str = Field("", description="column that says who holds a row, for --partition domain")
    template: str | None = Field(None, description="jinja2 with {{ prompt }} and {{ text }}, which is the question")
    chat_template: bool = Field(False, description="put questions as the tokenizer's own chat template says")
    prompts: tuple[str, ...] | None = Field(None, min_length=1, description="hand-written ones, for zero-shot")
    answer_tokens: int = Field(64, ge=1, description="most tokens of an answer that the model writes")
    stop: tuple[str, ...] = Field((), description="texts at which a written answer ends, beside the end marker")
    match: Literal["auto", "whole", "final"] = Field(
        "auto",
        description="when an answer is right: whole, all its words are; final, its final answer is (after ####); "
        "auto: final where every answer has ####",
    )


def form_for(options: TextGenerationConfig) -> PromptTemplate:
    """Return the template of a question.

    Raises:
        ConfigError: It is not a template.
    """
    if options.chat_template and options.template is not None:
        raise ConfigError("task.template and task.chat_template=true say two things about one question: give one")
    changes: dict[str, Any] = {
        "template": options.template or TEMPLATE,
        "prompts": options.prompts or PROMPTS,
        "answer_tokens": options.answer_tokens,
        "stop": options.stop,
        "chat": options.chat_template,
    }
    return validate(PromptTemplate, changes, "task option")


def load_instructions(data: str, options: TextGenerationConfig) -> Source:
    """Load the questions called ``data``, with answers.

    Raises:
        ConfigError: The kind is unknown.
        DataError: Data are missing or bad.
    """
    parts, domain = parts_of(data, options.domain_column)
    rows = instruction_rows(parts, InstructionColumns(options.question_column, options.answer_column, domain))
    if not rows:
        raise DataError(f"data '{data}' has no questions")
    has_final = options.match == "final" or (options.match == "auto" and all(MARK in item.answer for *_, item in rows))
    samples = tuple(Sample(replace(item, has_final=has_final), RIGHT, domain, split) for split, domain, item in rows)
    return consistent(Source(data, ANSWER_CLASSES, samples))


def build(config: RunConfig) -> FederatedTask:
    """Distribute questions as texts are; all of them are of class "right".

    Raises:
        ConfigError: Options are not allowed.
        DataError: Data are missing or do not fit.
    """
    options = validate(TextGenerationConfig, config.task_options, "task option")
    form = form_for(options)
    task = distribute(config, options, load_instructions(config.data, options), form)
    return replace(task, clients=tuple(map(without_writing, task.clients)))


def without_writing(data: ClientData) -> ClientData:
    """Return ``data`` whose training and validation questions are judged by the likelihood of their answers alone."""
    return replace(data, train=_unwritten(data.train), val=_unwritten(data.val))


def _unwritten(split: Split) -> Split:
    return Split(
        tuple(replace(item, is_written=False) if isinstance(item, AnswerItem) else item for item in split.items),
        split.labels,
    )


@TASKS.register("text-generation")
class TextGeneration(Task):
    """Write answers to questions and instructions: a prompt or a low-rank change that makes the right ones likely."""

    Config = TextGenerationConfig
    partitions: ClassVar[tuple[str, ...]] = ("iid", "quantity", "domain")
    data: ClassVar[str] = BUNDLED
    method: ClassVar[str] = "fedprompt"
    rounds: ClassVar[int] = 10
    backbone: ClassVar[str] = "lm:gemma"
    measures: ClassVar[tuple[str, ...]] = ("answer_nll", "token_f1")
    selection: ClassVar[str] = "answer_nll"
    build = staticmethod(build)
