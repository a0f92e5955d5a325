"""The task ``federated-answers``: questions answered from what a federated search finds in private corpora."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from promptfed.config import RunConfig, validate
from promptfed.errors import DataError
from promptfed.examples.base import ANSWER_CLASSES, PhraseQuestion
from promptfed.prompt_template import PromptTemplate
from promptfed.retrieval.collection import Request
from promptfed.retrieval.contexts import Contexts
from promptfed.tasks.base import TASKS, Task, check_clients
from promptfed.tasks.federated_search import FoldsConfig, deal
from promptfed.tasks.sources.retrieval import BUNDLED, load_collection
from promptfed.types import NO_EXAMPLES, ClientData, FederatedTask, Split

RIGHT = ANSWER_CLASSES.index("right")
TEMPLATE = "{% if prompt %}{{ prompt }}\n\n{% endif %}{{ text }}\nAnswer:"
PROMPTS = (
    "",
    "Answer the question with a few words from the text.",
    "Read the text. Copy the words that answer the question.",
    "Give the shortest answer that is right.",
)
INSTRUCTIONS = (
    *PROMPTS,
    "Find the sentence that answers the question and repeat it.",
)
"""The instructions that methods choose from by default."""


class FederatedAnswersConfig(FoldsConfig):
    """Which questions there are, and what stands before them."""

    context: Literal["search", "gold", "description", "none"] = Field(
        "search",
        description="before a test question: what the engines that are asked find, the documents that answer it, what "
        "the first engine's owner says of it, or nothing",
    )
    documents: int = Field(2, ge=1, le=20, description="documents before a question, at most")
    engines: int = Field(3, ge=1, description="engines that are asked for a test question")
    words: int = Field(50, ge=1, description="words of a document, at most")
    val_fraction: float = Field(0.05, gt=0, lt=1, description="share of the other requests that choices are made with")
    shots: int | None = Field(1, ge=1, description="training questions of a client; null: all")
    tests: int | None = Field(16, ge=1, description="test questions; null: all of the fold")
    template: str | None = Field(None, description="jinja2 with {{ prompt }} and {{ text }}, documents and question")
    prompts: tuple[str, ...] | None = Field(None, min_length=1, description="hand-written ones, for zero-shot")
    answer_tokens: int = Field(16, ge=1, description="most tokens of an answer")
    stop: tuple[str, ...] = Field(("\n",), description="texts at which an answer ends")


def question_of(request: Request, documents: Sequence[str], number: int) -> PhraseQuestion:
    """Return a request behind its documents as one example."""
    lines = [*(f"Text: {text}" for text in documents), f"Question: {request.text}"]
    return PhraseQuestion("\n".join(lines), f"request {number + 1}", request.answer)


def build(config: RunConfig) -> FederatedTask:
    """Make each engine a client with its own questions, which it answers from its own documents.

    A client trains on what it finds itself; test questions stand behind what a search over all engines finds. The
    accuracy of a prompt is the share of replies that contain the answer.

    Raises:
        ConfigError: Options are not allowed.
        DataError: Data are missing or do not fit, or have no answers.
    """
    options = validate(FederatedAnswersConfig, config.task_options, "task option")
    collection = load_collection(config.data)
    if not collection.has_documents or not any(request.answer for request in collection.requests):
        raise DataError(
            f"data '{config.data}' has no documents with answers, so nothing can be answered: use texts:search or "
            "squad:FILE"
        )
    engines = [corpus.name for corpus in collection.corpora]
    check_clients(config.clients, len(engines), "engines")
    changes: Mapping[str, Any] = {
        "template": options.template or TEMPLATE,
        "prompts": options.prompts or PROMPTS,
        "answer_tokens": options.answer_tokens,
        "stop": options.stop,
    }
    form = validate(PromptTemplate, changes, "task option")
    contexts = Contexts(collection, options.documents, options.engines, options.words)
    parts = deal(collection, options, config.partition_seed)
    before: Callable[[Request], list[str]] = {
        "search": contexts.search,
        "gold": contexts.gold,
        "description": contexts.describe,
        "none": lambda request: [],
    }[options.context]

    def split(numbers: Sequence[int], engine: int | None = None) -> Split:
        items = tuple(
            question_of(request, before(request) if engine is None else contexts.find(engine, request), k)
            for k, request in ((k, collection.requests[k]) for k in numbers)
        )
        return Split(items, torch.full((len(items),), RIGHT, dtype=torch.int64))

    def questions_at(numbers: Sequence[int], engine: int) -> list[int]:
        requests = ((k, collection.requests[k]) for k in numbers)
        return [k for k, request in requests if request.origin == engine and request.answer]

    place = {k: number for engine in range(len(engines)) for number, k in enumerate(questions_at(parts.test, engine))}
    tests = sorted(place, key=lambda k: (place[k], k))[: options.tests]  # of each engine as many
    clients = tuple(
        ClientData(
            client=k,
            name=name,
            classes=(0, 1),
            train=split(questions_at(parts.train[k], k)[: options.shots], k),
            val=split(questions_at(parts.val, k), k),
            test=split(questions_at(tests, k)),
            domain=name,
        )
        for k, name in enumerate(engines)
    )
    if not tests:
        raise DataError(f"data '{config.data}' has no test questions with answers: choose another task.fold")
    if not any(len(data.train) for data in clients):
        raise DataError(
            f"data '{config.data}' has no training questions with answers: raise task.folds, or use data with answers"
        )
    return FederatedTask(
        name=config.task,
        base_classes=ANSWER_CLASSES,
        new_classes=(),
        clients=clients,
        base_test=split(sorted(tests)),
        new_test=NO_EXAMPLES,
        templates=form.prompts,
        notes=(*collection.notes, _note([collection.requests[k] for k in tests], before)),
        form=form,
        partition="domain",
    )


def _note(tests: Sequence[Request], before: Callable[[Request], list[str]]) -> str:
    """Return a note that says for how many test questions the documents contain the answer."""
    hits = [any(PhraseQuestion("", "", r.answer).is_answered(text) for text in before(r)) for r in tests]
    share = 100 * sum(hits) / max(1, len(hits))
    return f"for {share:.0f} % of the {len(hits)} test questions the answer stands in their documents"


@TASKS.register("federated-answers")
class FederatedAnswers(Task):
    """Answer questions from what a federated search finds: clients learn the instruction before documents."""

    Config = FederatedAnswersConfig
    partitions: ClassVar[tuple[str, ...]] = ("domain",)
    data: ClassVar[str] = BUNDLED
    method: ClassVar[str] = "fedlogic"
    rounds: ClassVar[int] = 1
    oracle: ClassVar[str | None] = "gemma"
    baselines: ClassVar[tuple[str, ...]] = ("zero_shot",)
    method_options: ClassVar[Mapping[str, Any]] = {"prompts": INSTRUCTIONS}
    build = staticmethod(build)
