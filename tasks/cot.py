"""The task ``cot``: questions answered in free text, right or wrong by exact match of the final answer (GSM8K)."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field

from promptfed.config import RunConfig, validate
from promptfed.errors import ConfigError, DataError, unknown_name
from promptfed.examples.base import ANSWER_CLASSES, QuestionItem, Sample
from promptfed.prompt_template import PromptTemplate
from promptfed.tasks import clip_fewshot, few_shot
from promptfed.tasks import partitioning as partition
from promptfed.tasks.base import TASKS, Task
from promptfed.tasks.clip_fewshot import DealtConfig
from promptfed.tasks.sources import consistent
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.bundled_texts import FOLDER
from promptfed.tasks.sources.tables import Row, complete_rows
from promptfed.types import FederatedTask, Split

KINDS = {
    "texts": ("jsonl", "texts:arithmetic"),
    "jsonl": ("jsonl", "jsonl:PATH"),
    "tsv": ("tsv", "tsv:PATH"),
    "hf": ("hugging_face_texts", "hf:NAME[:SPLIT]"),
}
"""Kind -> the module with its ``parts`` function, and how a user writes it."""

BUNDLED = "texts:arithmetic"
RIGHT = ANSWER_CLASSES.index("right")
TEMPLATE = "{% if prompt %}{{ prompt }}\n{% endif %}Question: {{ text }}\nAnswer:"
PROMPTS = (
    "",
    "Let's think step by step.",
    "Work the answer out step by step and give the number last.",
    "Solve the problem. Show the calculation, then write the result after ####.",
)
STOP = ("\n\n", "\nQuestion:")
DEMONSTRATIONS = (
    ("A basket holds 6 lemons. Ute fills 3 baskets and keeps 4 lemons in her hand. How many lemons has she?",
     "The baskets hold 3 * 6 = 18 lemons. With those in her hand she has 18 + 4 = 22.\n#### 22"),
    ("Of 50 seats in the hall, 38 are taken. How many people can still sit down?",
     "There are 50 - 38 = 12 free seats.\n#### 12"),
    ("A rope of 40 metres is cut into 5 equal parts. How long are two of them together, in metres?",
     "One part is 40 / 5 = 8 metres long. Two are 2 * 8 = 16 metres.\n#### 16"),
    ("A ticket costs 4 dollars. How many tickets do 28 dollars buy?",
     "They buy 28 / 4 = 7 tickets.\n#### 7"),
)  # fmt: skip
"""Public worked examples, not part of any data."""


class CotConfig(DealtConfig):
    """Source and format of the questions.

    ``test_per_class`` limits all test questions, which are one class.
    """

    base_fraction: float = Field(1.0, ge=1, le=1, description="not used: there are no new classes")
    question_column: str = Field("question", description="column that holds the question")
    answer_column: str = Field("answer", description="the worked answer; what counts follows #### or comes last")
    domain_column: str = Field("", description="column that says who holds a question, for --partition domain")
    template: str | None = Field(None, description="jinja2 with {{ prompt }} and {{ text }}, which is the question")
    prompts: tuple[str, ...] | None = Field(None, min_length=1, description="hand-written ones, for zero-shot")
    answer_tokens: int = Field(96, ge=1, description="most tokens of an answer")
    stop: tuple[str, ...] = Field(STOP, description="texts at which an answer ends")
    demonstrations: int = Field(
        2, ge=0, le=len(DEMONSTRATIONS), description="public worked examples before the prompt, the same for everybody"
    )


def form_for(options: CotConfig) -> PromptTemplate:
    """Return the template of a question.

    Raises:
        ConfigError: It is not a template.
    """
    examples = [f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in DEMONSTRATIONS]
    changes: dict[str, Any] = {
        "template": options.template or TEMPLATE,
        "preamble": "".join(examples[: options.demonstrations]),
        "prompts": options.prompts or PROMPTS,
        "answer_tokens": options.answer_tokens,
        "stop": options.stop,
    }
    return validate(PromptTemplate, changes, "task option")


def load_questions(data: str, question: str, answer: str, domain: str = "") -> Source:
    """Load the questions called ``data``.

    Args:
        data: ``jsonl:...``, ``hf:...`` or the bundled ones.
        question: The column of questions.
        answer: The column of answers.
        domain: The column of domains; "" for none.

    Raises:
        ConfigError: The kind is unknown.
        DataError: Data are missing or bad.
    """
    parts, domain = parts_of(data, domain)
    columns = {"question_column": question, "answer_column": answer}
    rows = complete_rows(parts, {**columns, "domain_column": domain} if domain else columns)
    if not rows:
        raise DataError(f"data '{data}' has no questions")
    samples = [
        Sample(
            QuestionItem(str(row[question]).strip(), position, str(row[answer]).strip()),
            RIGHT,
            str(row[domain]).strip() if domain else "",
            split,
        )
        for split, position, row in rows
    ]
    return consistent(Source(data, ANSWER_CLASSES, tuple(samples)))


def parts_of(data: str, domain: str) -> tuple[Mapping[str, Iterable[tuple[str, Row]]], str]:
    """Find the rows of the questions called ``data``.

    Args:
        data: ``jsonl:...``, ``hf:...`` or the bundled ones.
        domain: The column of domains; "" for none.

    Returns:
        Split -> its rows, and the column of domains, which the bundled questions have.

    Raises:
        ConfigError: The kind is unknown.
        DataError: Data are missing.
    """
    kind, _, name = data.partition(":")
    if kind not in KINDS:
        raise unknown_name("source of questions", kind, [form for _, form in KINDS.values()])
    module, form = KINDS[kind]
    if not name:
        raise ConfigError(f"data source '{data}' lacks its name or path: write {form}")
    if kind == "texts":
        if data != BUNDLED:
            raise unknown_name("bundled questions", name, [BUNDLED.partition(":")[2]])
        name, domain = str(FOLDER / "arithmetic.jsonl"), domain or "domain"
    return importlib.import_module(f"promptfed.tasks.sources.{module}").parts(name), domain


def build(config: RunConfig) -> FederatedTask:
    """Distribute questions as texts are; all of them are of class "right".

    A prompt's accuracy is the share of questions answered right.

    Raises:
        ConfigError: Options are not allowed.
        DataError: Data are missing or do not fit.
    """
    options = validate(CotConfig, config.task_options, "task option")
    form = form_for(options)
    source = load_questions(config.data, options.question_column, options.answer_column, options.domain_column)
    return distribute(config, options, source, form)


def distribute(config: RunConfig, options: DealtConfig, source: Source, form: PromptTemplate) -> FederatedTask:
    """Distribute the questions of ``source``, which are put as ``form`` says.

    Raises:
        ConfigError: Options are not allowed.
        DataError: There are too few questions.
    """
    kind, _ = partition.parse_partition(config.partition)
    splits = few_shot.pools(source, options.test_fraction, config.partition_seed)
    test = few_shot.capped(source, splits.test, options.test_per_class, config.partition_seed)
    pools = few_shot.Pools(splits.train, splits.val, test)
    if not pools.train or not pools.test:
        lacking = "training" if pools.test else "test"
        raise DataError(f"data '{source.name}' has no {lacking} questions: {len(source.samples)} in all are too few")
    clients = [
        # Answers may be wrong, so the choice is between both classes, whatever the labels say.
        replace(clip_fewshot.client_data(source, number, holding), classes=(0, 1))
        for number, holding in enumerate(clip_fewshot.deal(config, options, kind, source, len(ANSWER_CLASSES), pools))
    ]
    return FederatedTask(
        name=config.task,
        base_classes=ANSWER_CLASSES,
        new_classes=(),
        clients=tuple(clients),
        base_test=clip_fewshot.as_split(source, pools.test),
        new_test=Split((), torch.zeros(0, dtype=torch.int64)),
        templates=form.prompts,
        notes=source.notes,
        domain_tests=clip_fewshot.domain_splits(source, pools.test) if kind == "domain" else {},
        form=form,
    )


@TASKS.register("cot")
class Cot(Task):
    """Answer questions in free text by chains of thought; an answer is right if its final answer is."""

    Config = CotConfig
    partitions: ClassVar[tuple[str, ...]] = ("iid", "quantity", "domain")
    data: ClassVar[str] = BUNDLED
    method: ClassVar[str] = "fedlogic"
    oracle: ClassVar[str | None] = "gemma"
    build = staticmethod(build)
