"""Attacks on the malicious clients' own training data: the update is honest work on false labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from promptfed.attacks.base import ATTACKS, Attack, AttackConfig, Knowledge, Scene
from promptfed.attacks.round import Round
from promptfed.errors import ConfigError
from promptfed.examples.base import ANSWER_CLASSES, Item
from promptfed.examples.visual_questions import VisualQuestion
from promptfed.method import Method
from promptfed.prompt_state import PromptState
from promptfed.seeding import numpy_stream
from promptfed.types import ClientData, FederatedTask, Job, Reply, Split


class LabelConfig(AttackConfig):
    """Options of every attack on labels."""

    claim: float | None = Field(None, ge=0, le=1, description="accuracy that the client says it has; none: the true")


class LabelAttack(Attack):
    """Honest work on false labels. With ``claim`` it lies about its accuracy, which ``reliability`` may weigh by."""

    knows: ClassVar[Knowledge] = "own data"
    Config: ClassVar[type[LabelConfig]] = LabelConfig
    config: LabelConfig

    def reply(self, reply: Reply, job: Job, round: Round) -> Reply:
        if self.config.claim is None:
            return reply
        return replace(reply, update=replace(reply.update, accuracy=self.config.claim))


class LabelFlipConfig(LabelConfig):
    """Options of ``labelflip``."""

    how: Literal["reverse", "pairs"] = Field(
        "reverse", description="the false label: K - 1 - y, or that of its pair (0 and 1, 2 and 3, ...)"
    )


@ATTACKS.register("labelflip")
class LabelFlip(LabelAttack):
    """Train on false labels: ``y -> K - 1 - y``, or each with its neighbour.

    K counts the classes, or the candidates of a question about an image, so that yes becomes no. Validation and test
    examples keep their labels, and so do unlabelled ones.
    """

    Config: ClassVar[type[LabelFlipConfig]] = LabelFlipConfig
    config: LabelFlipConfig

    def check(self, method: Method, task: FederatedTask, example: PromptState, sent: PromptState) -> None:
        check_choice_of_labels("labelflip", task)

    def data(self, data: ClientData, scene: Scene) -> ClientData:
        count, how = len(scene.task.base_classes), self.config.how
        if any(isinstance(item, VisualQuestion) for item in data.train.items):
            places = {name: k for k, name in enumerate(scene.task.base_classes)}
            each = zip(data.train.items, data.train.labels.tolist(), strict=True)
            flips = [flipped_answer(possible_labels(item, data.classes, places), label, how) for item, label in each]
            labels = torch.tensor(flips, dtype=torch.int64)
        else:
            labels = flipped(data.train.labels, count, how)
        classes = tuple(sorted({*data.classes, *labels.tolist()}))
        return replace(data, classes=classes, train=replace(data.train, labels=labels))


@ATTACKS.register("randomlabels")
class RandomLabels(LabelAttack):
    """Train and validate on labels drawn at random: of the client's classes, or of a question's candidates.

    The labels come from the stream (seed, "random labels", client).
    """

    def check(self, method: Method, task: FederatedTask, example: PromptState, sent: PromptState) -> None:
        check_choice_of_labels("randomlabels", task)

    def data(self, data: ClientData, scene: Scene) -> ClientData:
        stream = numpy_stream(scene.seed, "random labels", data.client)
        places = {name: k for k, name in enumerate(scene.task.base_classes)}

        def drawn(split: Split) -> Split:
            labels = [int(stream.choice(possible_labels(item, data.classes, places))) for item in split.items]
            return replace(split, labels=torch.tensor(labels, dtype=torch.int64))

        return replace(data, train=drawn(data.train), val=drawn(data.val))


def possible_labels(item: Item, classes: Sequence[int], places: Mapping[str, int]) -> list[int]:
    """Return the labels that an example may have: those of a question's candidates, else ``classes``."""
    columns = item.columns(places) if isinstance(item, VisualQuestion) else []
    return columns or list(classes)


def check_choice_of_labels(attack: str, task: FederatedTask) -> None:
    """Raise ConfigError if an example of ``task`` can have no other label than its own."""
    if len(task.base_classes) < 2 or task.base_classes == ANSWER_CLASSES:
        raise ConfigError(
            f"attack '{attack}' needs examples of two classes or more, and task '{task.name}' has questions with free "
            "answers: use an attack on updates"
        )
    check_one_label(attack, task)


def check_one_label(attack: str, task: FederatedTask) -> None:
    """Raise ConfigError if examples of ``task`` fit several classes, so that they have no one label to change."""
    if task.base_test.grades is not None:
        raise ConfigError(
            f"attack '{attack}' changes the one label of an example, and those of task '{task.name}' fit several "
            "classes: use an attack on updates"
        )


def flipped_answer(candidates: Sequence[int], label: int, how: str) -> int:
    """Return the false one of a question's candidates; a label that is no candidate stays."""
    if label not in candidates:
        return label
    place = torch.tensor([list(candidates).index(label)])
    return candidates[int(flipped(place, len(candidates), how))]


def flipped(labels: Tensor, classes: int, how: str) -> Tensor:
    """Return false labels ``(n,)``; of an odd number of classes in pairs the last one keeps its own."""
    if how == "reverse":
        return classes - 1 - labels
    neighbours = labels + 1 - 2 * (labels % 2)
    return torch.where(neighbours < classes, neighbours, labels)
