"""A backdoor in feature space: images with a trigger are to be taken for one class, and all others for what they are.

The trigger is a direction added to image features, under a limit on their cosine to the clean ones. That is an upper
bound for an attacker of the pixels, not the trigger of BadPromptFL (arXiv 2508.08040): nobody shows here that some
picture has these features. It needs no image tower, so cached features do.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.attacks.base import ATTACKS, Attack, AttackConfig, Knowledge, Scene
from promptfed.attacks.data import check_one_label
from promptfed.attacks.round import Round, sends_change
from promptfed.backbones.features import FeatureStore
from promptfed.errors import ConfigError, DataError
from promptfed.examples.base import ImageItem, Item
from promptfed.intervals import wilson_interval
from promptfed.method import Method
from promptfed.prompt_state import PromptState
from promptfed.scores import predicted
from promptfed.seeding import torch_stream
from promptfed.types import ClientData, ClientPrompt, FederatedTask, Job, Reply, Split

STEPS, RATE = 100, 0.1
"""Steps of gradient descent on the trigger, and their length; the trigger is a unit vector."""


class BackdoorConfig(AttackConfig):
    """Options of ``backdoor``."""

    target: int = Field(0, ge=0, description="base class that images with the trigger are to get, counted from 0")
    trigger: Literal["random", "optimised"] = Field(
        "random", description="a direction drawn by the seed, or one that leads the model to the target by itself"
    )
    cosine: float = Field(
        0.9, gt=0, lt=1, description="cosine of an image's features with the trigger to those without"
    )
    weight: float = Field(1.0, gt=0, le=100, description="lambda: examples with the trigger for each clean one")
    boost: float = Field(1.0, gt=0, allow_inf_nan=False, description="the change is sent so many times as long")


@dataclass(frozen=True)
class TriggeredItem(ImageItem):
    """An image with the trigger, of which there are features alone."""

    clean: Item
    trigger: str

    @property
    def name(self) -> str:
        return f"{self.clean.name} with a trigger"

    def content_id(self) -> str:
        return hashlib.sha256(f"{self.clean.content_id()}|{self.trigger}".encode()).hexdigest()

    def load(self) -> Image.Image:
        raise DataError(f"{self.name} has features and no pixels")


@ATTACKS.register("backdoor")
class Backdoor(Attack):
    """Teach the prompt to take images with a trigger for one class (after BadPromptFL; in feature space).

    A malicious client trains on ``L_clean + lambda L(x + trigger, target)``: on its own examples, and on ``lambda``
    times as many with the trigger and the target's label. The trigger is the same for all and does not change.
    """

    Config: ClassVar[type[BackdoorConfig]] = BackdoorConfig
    knows: ClassVar[Knowledge] = "own data"
    config: BackdoorConfig

    def check(self, method: Method, task: FederatedTask, example: PromptState, sent: PromptState) -> None:
        if method.setup.model.kind != "dual encoder" or {"visual prompts", "patch features"} & method.requires:
            raise ConfigError(
                f"attack 'backdoor' adds its trigger to cached image features, which {method.name} does not train on: "
                "use a task with images and a method on text prompts, such as promptfl"
            )
        check_one_label("backdoor", task)
        if self.config.target >= len(task.base_classes):
            raise ConfigError(
                f"attack option 'target' is {self.config.target}, and the task has base classes 0 to "
                f"{len(task.base_classes) - 1}"
            )

    def data(self, data: ClientData, scene: Scene) -> ClientData:
        clean, target = data.train, self.config.target
        count = round(self.config.weight * len(clean))
        rows = torch.tensor(list(islice(cycle(range(len(clean))), count)), dtype=torch.int64)
        if not len(rows):
            return data
        triggered = with_trigger(clean, self.trigger(scene), self.config.cosine, scene.method.setup.features)
        train = Split(
            (*clean.items, *(triggered.items[row] for row in rows.tolist())),
            torch.cat([clean.labels, torch.full((count,), target)]),
        )
        return replace(data, classes=tuple(sorted({*data.classes, target})), train=train)

    def reply(self, reply: Reply, job: Job, round: Round) -> Reply:
        if self.config.boost == 1:
            return reply
        return sends_change(reply, job, self.config.boost * round.changes[reply.client])

    def trigger(self, scene: Scene) -> Tensor:
        """Return the trigger ``(embed_dim,)``, a unit vector: the same whenever it is asked for."""
        setup = scene.method.setup
        start = torch.randn(setup.backbone.embed_dim, generator=torch_stream(scene.seed, "trigger"))
        trigger = F.normalize(start, dim=0)
        if self.config.trigger == "random":
            return trigger
        images = torch.cat([setup.features.images(scene.task.client(c).train) for c in sorted(scene.malicious)])
        texts = setup.features.texts([setup.templates[0].format(name) for name in scene.task.base_classes])
        return optimised(
            trigger, images.cpu(), texts.cpu(), self.config.target, self.config.cosine, setup.backbone.logit_scale
        )

    def figures(self, prompts: Mapping[str, ClientPrompt], scene: Scene) -> dict[str, Any]:
        """``asr``: share of non-target test images with the trigger that get the target class, with its interval.

        ``asr_start``: the same with the prompt before training. ``without_trigger``: the same images without it.
        """
        method, classes, target = scene.method, scene.task.base_classes, self.config.target
        rows = (scene.task.base_test.labels != target).nonzero()[:, 0]
        clean = Split(tuple(scene.task.base_test.items[i] for i in rows.tolist()), scene.task.base_test.labels[rows])
        triggered = with_trigger(clean, self.trigger(scene), self.config.cosine, method.setup.features)

        def rate(prompt: ClientPrompt, split: Split) -> float:
            return (predicted(method.client_logits(prompt, classes, split)) == target).double().mean().item()

        asr = rate(prompts["trained"], triggered)
        return {
            "target": classes[target],
            "asr": asr,
            "asr_interval": list(wilson_interval(asr, len(clean))),
            "asr_start": rate(prompts["start"], triggered),
            "without_trigger": rate(prompts["trained"], clean),
        }


def add_trigger(images: Tensor, trigger: Tensor, cosine: float) -> Tensor:
    """Return ``images`` ``(n, dim)`` turned towards ``trigger`` ``(dim,)`` up to ``cosine`` to what they were.

    ``x' = |x| (c x/|x| + sqrt(1 - c^2) u)`` with the unit ``u`` along what of the trigger is orthogonal to x.
    """
    units = F.normalize(images, dim=-1)
    sideways = F.normalize(trigger - (units @ trigger)[:, None] * units, dim=-1)
    lengths: Tensor = images.norm(dim=-1, keepdim=True)
    return lengths * (cosine * units + math.sqrt(1 - cosine**2) * sideways)


def with_trigger(split: Split, trigger: Tensor, cosine: float, features: FeatureStore) -> Split:
    """Return the examples of ``split`` with the trigger, whose features ``features`` knows from now on."""
    mark = hashlib.sha256(trigger.cpu().numpy().tobytes() + str(cosine).encode()).hexdigest()
    items = tuple(TriggeredItem(item, mark) for item in split.items)
    made = add_trigger(features.images(split).cpu(), trigger.cpu(), cosine)
    features.add_images({item.content_id(): row for item, row in zip(items, made, strict=True)})
    return Split(items, split.labels)


def optimised(start: Tensor, images: Tensor, texts: Tensor, target: int, cosine: float, scale: float) -> Tensor:
    """Return the unit trigger that lowers the loss of ``target`` on ``images``, by gradient descent from ``start``.

    Args:
        start: A unit vector ``(dim,)``.
        images: Features ``(n, dim)`` of the malicious clients' images.
        texts: Features ``(classes, dim)`` of the class names, as the public model has them.
        target: The class.
        cosine: The limit of ``add_trigger``.
        scale: Of the model's cosines.
    """
    units, labels = F.normalize(texts, dim=-1), torch.full((len(images),), target)
    trigger = start
    with torch.enable_grad():
        for _ in range(STEPS):
            leaf = trigger.detach().requires_grad_()
            loss = F.cross_entropy(scale * F.normalize(add_trigger(images, leaf, cosine), dim=-1) @ units.T, labels)
            gradient = torch.autograd.grad(loss, leaf)[0]
            trigger = F.normalize(leaf.detach() - RATE * F.normalize(gradient, dim=0), dim=0)
    return trigger
