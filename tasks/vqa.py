"""The task ``vqa``: answers to questions about images, which the text tower reads together with the question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator

from promptfed.config import RunConfig, validate
from promptfed.errors import ConfigError, DataError
from promptfed.examples.visual_questions import VisualQuestion
from promptfed.seeding import numpy_stream
from promptfed.tasks.base import TASKS, Task, TaskConfig, check_clients
from promptfed.tasks.sources.class_names import check_names
from promptfed.tasks.sources.visual_questions import SHAPES, YES_NO, Asked, VisualQuestions, load_visual_questions
from promptfed.types import ClientData, FederatedTask, Split

USES = ("train", "val", "test")


class VqaConfig(TaskConfig):
    """Which questions, and how many images each client has."""

    images: int | None = Field(24, ge=1, description="training images of a client; none: all (shapes: 240)")
    val_images: int = Field(12, ge=1, description="validation images of a client")
    test_images: int | None = Field(24, ge=1, description="test images of a client; none: all")
    test_fraction: float = Field(0.3, gt=0, lt=1, description="share of a client's images for test, without a split")
    questions: Literal["closed", "yes_no", "all"] = Field(
        "closed", description="those with one of a few answers, those with yes or no, or all"
    )
    most_answers: int = Field(
        12, ge=2, description="candidates: a client's most frequent answers to a kind of question"
    )
    about: Literal["shape", "color", "both"] = Field("shape", description="of drawn shapes: what is asked for")
    by: Literal["color", "shape"] = Field("color", description="of easyvqa: what the images of a client have in common")
    form: str = Field("{question} {answer}", description="how question and answer become one text")
    templates: tuple[str, ...] = Field(
        ("{}", "a picture. {}", "{} that is true."), min_length=1, description="zero-shot: texts with {} for that text"
    )

    @field_validator("form")
    @classmethod
    def _has_both(cls, form: str) -> str:
        if any(form.count(part) != 1 for part in ("{question}", "{answer}")):
            raise ValueError(f"form '{form}' must hold {{question}} and {{answer}} once each")
        return form

    @field_validator("templates")
    @classmethod
    def _have_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for text in templates:
            if text.count("{}") != 1:
                raise ValueError(f"template '{text}' must hold {{}} once, in the place of question and answer")
        return templates


def build(config: RunConfig) -> FederatedTask:
    """Make each home of images a client. No image is in two of training, validation and test.

    Raises:
        ConfigError: Options are not allowed.
        DataError: Data are missing or do not fit.
    """
    options = validate(VqaConfig, config.task_options, "task option")
    if config.privacy_options.get("dp") == "example":
        raise ConfigError("task 'vqa' has a step's questions share texts, so no example is protected by itself: "
                          "leave out privacy.dp=example")  # fmt: skip
    if config.method_options.get("class_specific"):
        raise ConfigError("task 'vqa' reads answers together with questions, so no class has a context of its own: "
                          "leave out method.class_specific")  # fmt: skip
    drawn = (options.images or 240) + options.val_images
    drawn = int(drawn / (1 - options.test_fraction)) + (options.test_images or 0)
    data = load_visual_questions(
        config.data, images=drawn, about=options.about, seed=config.partition_seed, by=options.by
    )
    return task_of(config, options, data)


def task_of(config: RunConfig, options: VqaConfig, data: VisualQuestions) -> FederatedTask:
    """As ``build``, of questions that are loaded."""
    asked = [one for one in data.asked if _is_wanted(one, options.questions)]
    homes = sorted({one.home for one in asked})
    check_clients(config.clients, len(homes))
    parts = {home: _parts([one for one in asked if one.home == home], options, config) for home in homes}
    answers = sorted({one.answer for uses in parts.values() for use in USES for one in uses[use]})
    if len(answers) < 2:
        raise DataError(f"data '{data.name}' has {len(answers)} answers to questions of sort '{options.questions}'")
    check_names(answers, "answer", data.name)
    check_names(homes, "client", data.name)
    label = {answer: k for k, answer in enumerate(answers)}
    clients = [_client(k, home, parts[home], label, options) for k, home in enumerate(homes)]
    empty = [c.name for c in clients for use in (c.train, c.val, c.test) if not len(use)]
    if empty:
        raise DataError(f"client '{empty[0]}' of data '{data.name}' lacks images for training, validation or test")
    test = [pair for c in clients for pair in zip(c.test.items, c.test.labels.tolist(), strict=True)]
    unknown = sum(answers[k] not in getattr(item, "candidates", ()) for item, k in test)
    note = f"{unknown} of {len(test)} test questions have an answer that is no candidate: they count as wrong"
    return FederatedTask(
        name=config.task,
        base_classes=tuple(answers),
        new_classes=(),
        clients=tuple(clients),
        base_test=Split(tuple(item for item, _ in test), torch.tensor([k for _, k in test], dtype=torch.int64)),
        new_test=Split((), torch.zeros(0, dtype=torch.int64)),
        templates=options.templates,
        notes=(*data.notes, *([note] if unknown else [])),
        partition="domain",
    )


def _is_wanted(one: Asked, questions: str) -> bool:
    return questions == "all" or (one.is_closed and (questions == "closed" or one.answer in YES_NO))


def _parts(asked: Sequence[Asked], options: VqaConfig, config: RunConfig) -> dict[str, list[Asked]]:
    """Return the questions of one client by use, split by image; the images are drawn by the partition's seed."""
    images: dict[str, list[Asked]] = {}
    for one in asked:
        images.setdefault(one.image.key, []).append(one)
    stream = numpy_stream(config.partition_seed, "vqa", asked[0].home)
    order = [sorted(images)[k] for k in stream.permutation(len(images))]
    of_test = [key for key in order if images[key][0].split == "test"]
    rest = [key for key in order if key not in set(of_test)]
    if not of_test:
        count = max(1, int(options.test_fraction * len(rest)))
        of_test, rest = rest[:count], rest[count:]
    count = min(options.val_images, len(rest) // 2)
    keys_of = {"train": rest[count:][: options.images], "val": rest[:count], "test": of_test[: options.test_images]}
    return {use: [one for key in keys for one in images[key]] for use, keys in keys_of.items()}


def _client(
    number: int, home: str, uses: dict[str, list[Asked]], label: dict[str, int], options: VqaConfig
) -> ClientData:
    """Return the data of one client, whose candidates are its own training answers."""
    counts: dict[str, Counter[str]] = {}
    for one in uses["train"]:
        counts.setdefault(one.kind, Counter())[one.answer] += 1
    every = sum(counts.values(), Counter())

    def candidates(kind: str) -> tuple[str, ...]:
        known = counts.get(kind, every)
        return tuple(sorted(known, key=lambda answer: (-known[answer], answer))[: options.most_answers])

    known = {one.kind: candidates(one.kind) for use in USES for one in uses[use]}

    def split(asked: Iterable[Asked], is_test: bool = False) -> Split:
        kept = [one for one in asked if is_test or one.answer in known[one.kind]]
        items = tuple(VisualQuestion(o.image, o.question, o.kind, known[o.kind], options.form) for o in kept)
        return Split(items, torch.tensor([label[one.answer] for one in kept], dtype=torch.int64))

    train = split(uses["train"])
    classes = tuple(sorted(set(train.labels.tolist())))
    return ClientData(number, home, classes, train, split(uses["val"]), split(uses["test"], True), domain=home)


@TASKS.register("vqa")
class Vqa(Task):
    """Answer questions about images: every home of images (a colour, an organ) is a client."""

    Config = VqaConfig
    partitions: ClassVar[tuple[str, ...]] = ("domain",)
    data: ClassVar[str] = SHAPES
    method: ClassVar[str] = "reliable"
    methods: ClassVar[tuple[str, ...]] = (
        "reliable", "promptfl", "fedprox", "fedamp", "local_only", "zero_shot", "majority_answer", "question_only",
    )  # fmt: skip
    rounds: ClassVar[int] = 8
    has_questions: ClassVar[bool] = True
    backbone: ClassVar[str] = "tiny"
    baselines: ClassVar[tuple[str, ...]] = ("zero_shot", "majority_answer", "question_only", "local_only")
    method_options: ClassVar[dict[str, Any]] = {"n_ctx": 8, "lr": 0.02, "local_epochs": 2}
    build = staticmethod(build)
