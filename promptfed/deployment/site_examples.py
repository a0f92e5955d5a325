"""What the examples of sites are: images in folders, texts with labels in tables, or questions with answers.

``examples_of`` is the one place that asks a config which. What follows from it is a method here: how a site's data are
read, how a text is put to the model, which classes there are, and what lines for people call it all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, Generic, TypeVar, cast

from promptfed.config import RunConfig, validate
from promptfed.errors import ConfigError
from promptfed.examples.base import ANSWER_CLASSES
from promptfed.named_model import named_model
from promptfed.prompt_template import PromptTemplate, check_each_has, check_labels
from promptfed.tasks import TASKS
from promptfed.tasks.base import TaskConfig
from promptfed.tasks.blackbox_text import columns_of, form_for, read_texts
from promptfed.tasks.clip_fewshot import DealtConfig, FewShotConfig, templates
from promptfed.tasks.sources import consistent, folder, load_source
from promptfed.tasks.sources.base import Source
from promptfed.tasks.text_classification import TextClassificationConfig
from promptfed.tasks.text_generation import TextGenerationConfig, load_instructions, without_writing
from promptfed.tasks.text_generation import form_for as question_form
from promptfed.types import ClientData

OWN_DATA = "sites"
"""The ``data`` of a run whose sites have data of their own."""


Options = TypeVar("Options", bound=DealtConfig)


class SiteExamples(ABC, Generic[Options]):
    """The examples of the sites of ``config``'s run, which each have their own.

    Attributes:
        config: The options of the run.
        options: The options of its task.
    """

    Config: ClassVar[type[TaskConfig]]
    """The options of the tasks with such examples."""
    noun: ClassVar[str]
    """What lines for people call one of them."""
    fix: ClassVar[str]
    """What to do about a class that the run has not."""
    columns: ClassVar[tuple[str, ...]] = ()
    """The task's options that name columns of a table."""
    place: ClassVar[str]
    about: ClassVar[str]
    """A site's ``data`` as the README of an app has it, and what is there."""
    shown: ClassVar[str]
    """An example for ``promptfed predict``."""
    classes: ClassVar[tuple[str, ...] | None] = None
    """The classes of every run; None: the sites agree on them."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.options = cast("Options", validate(TASKS[config.task].Config, config.task_options, "task option"))

    def check_options(self) -> None:
        """Raise ConfigError for an option of the task that does not go with data of sites."""

    @abstractmethod
    def source(self, data: str) -> Source:
        """Read all that a site has. It may have one class only, which a data set of its own could not.

        Raises:
            ConfigError: The kind of ``data`` is unknown, or not one of this task.
            DataError: Data are missing or bad.
        """

    @property
    @abstractmethod
    def form(self) -> PromptTemplate | None:
        """How an example is put to the model, the same at all sites; None for images. Raises ConfigError."""

    @property
    def templates(self) -> tuple[str, ...]:
        """The hand-written prompts of the run."""
        assert self.form is not None, "images have their own"
        return self.form.prompts

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise ConfigError if what the run's options say of its classes does not fit the agreed ``classes``."""

    def at_server(self, data: ClientData) -> ClientData:
        """Return the numbers of a site's examples, as the server counts with them."""
        return data

    def at_site(self, data: ClientData) -> ClientData:
        """Return the data of a site as its client works with them."""
        return data

    def skipped(self, source: Source) -> tuple[str, ...]:
        """Return a note for each example that could not be read."""
        return tuple(f"skipped unreadable {self.noun} {name}" for name in source.skipped)


class Images(SiteExamples[FewShotConfig]):
    """Images, in a folder for each class."""

    Config = FewShotConfig
    noun = "image"
    fix = "rename or remove its folder, or map it by classes.csv"
    place, about = "folder:/site/data", "a folder with one folder of images for each class"
    shown = "photo.jpg"

    def source(self, data: str) -> Source:
        kind, _, rest = data.partition(":")
        strict = self.config.strict
        read = partial(folder.source, rest) if kind == "folder" else partial(load_source, data)
        return consistent(read(strict=strict), strict=strict)

    @property
    def form(self) -> None:
        return None

    @property
    def templates(self) -> tuple[str, ...]:
        return templates(self.config, self.options, "domain")


class Texts(SiteExamples[TextClassificationConfig]):
    """Texts with labels, in tables. Label words and descriptions are the run's, as they are one form for all sites."""

    Config = TextClassificationConfig
    noun = "text"
    fix = "change the label of its rows, or map it by classes.csv"
    columns = ("text_column", "label_column")
    place = "tsv:/site/texts.tsv"
    about = (
        "a table of texts with their labels: a .tsv file, or `jsonl:` and a file of JSON lines, or a folder with\n"
        "such a file for each of train, dev and test"
    )
    shown = "'a text'"

    def check_options(self) -> None:
        _refuse("labels", self.options.labels, "the server would have to see every site's labels")
        _refuse("domain_column", self.options.domain_column, "each site is a domain")

    def source(self, data: str) -> Source:
        source = consistent(read_texts(data, columns_of(self.options)))
        unused = [name for name in source.descriptions if name not in self.options.descriptions]
        line = (
            f"the description of '{unused[0]}' in classes.csv is not used: task.descriptions has those of all"
            if unused
            else ""
        )
        return replace(source, notes=(*source.notes, line)) if line else source

    @property
    def form(self) -> PromptTemplate:
        return form_for(self.config.data, self.options)

    def check_classes(self, classes: Sequence[str]) -> None:
        check_labels(self.form, classes)
        check_each_has("words", self.options.words, classes)
        check_each_has("descriptions", self.options.descriptions, classes)


class Questions(SiteExamples[TextGenerationConfig]):
    """Questions with answers in free text, in tables. ``task.match=auto`` goes by the answers of each site."""

    Config = TextGenerationConfig
    noun = "question"
    fix = "leave it out"
    columns = ("question_column", "answer_column")
    place = "jsonl:/site/questions.jsonl"
    about = (
        "a table of questions with their answers: a file of JSON lines, or `tsv:` and a .tsv file, or a folder with\n"
        "such a file for each of train, dev and test"
    )
    shown = "'a question'"
    classes = ANSWER_CLASSES

    def check_options(self) -> None:
        _refuse("domain_column", self.options.domain_column, "each site is a domain")

    def source(self, data: str) -> Source:
        return load_instructions(data, self.options)

    @property
    def form(self) -> PromptTemplate:
        return question_form(self.options)

    def at_server(self, data: ClientData) -> ClientData:
        """Return ``data`` with both classes, as answers may be wrong whatever the labels say."""
        return replace(data, classes=tuple(range(len(ANSWER_CLASSES))))

    def at_site(self, data: ClientData) -> ClientData:
        return self.at_server(without_writing(data))


KINDS: tuple[type[Images | Texts | Questions], ...] = (Images, Texts, Questions)


def examples_of(config: RunConfig) -> Images | Texts | Questions:
    """Return what the sites of ``config``'s run hold.

    Raises:
        ConfigError: Sites cannot bring data of their own to its task, or an option of it is wrong.
    """
    if (kind := kind_of(config)) is not None:
        return kind(config)
    able = ", ".join(name for name in TASKS if issubclass(TASKS[name].Config, tuple(kind.Config for kind in KINDS)))
    raise ConfigError(f"sites cannot bring data of their own to task '{config.task}': use one of {able}")


def kind_of(config: RunConfig) -> type[Images | Texts | Questions] | None:
    """Return the kind of the examples of ``config``'s task; None if sites have no data of their own for it."""
    return next((kind for kind in KINDS if issubclass(TASKS[config.task].Config, kind.Config)), None)


def form_of(config: RunConfig, *, simulated: bool) -> PromptTemplate | None:
    """Return how examples are put to the model of a run.

    Args:
        config: The options of the run.
        simulated: Whether its nodes all deal out the same data, which may say something of the form.

    Raises:
        ConfigError: Options are not allowed.
        DataError: Data are missing or do not fit.
    """
    if not simulated:
        return examples_of(config).form
    return TASKS[config.task].build(config).form if named_model(config).kind == "language model" else None


def _refuse(option: str, value: object, why: str) -> None:
    if value:
        raise ConfigError(f"task option '{option}' does not go with data of sites, as {why}: leave it out")
