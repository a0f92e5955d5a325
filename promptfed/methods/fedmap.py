"""FedMAP: visual prompts, drawn to how class texts lie to each other (Wei, ICML 2026)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.class_losses import cross_entropy_on
from promptfed.cosines import cosine_logits
from promptfed.errors import ConfigError
from promptfed.local_training import GradientMethod, LocalObjective, LocalTraining, Parameters
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.attributes import AttributesConfig, attribute_features, check_attributes
from promptfed.prompts.text_context import LabelSpace, training_classes
from promptfed.prompts.visual_prompt import prompted_images, start_visual, visual_features
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split

BUFFERS = frozenset({"prototypes", "seen"})
"""What is counted, and never trained."""


class FedMAPConfig(LocalTraining, LabelSpace, AttributesConfig):
    """FedMAP's options; see docs/methods.md for the code's values."""

    n_visual: int = Field(1, ge=1, le=64, description="number of visual prompt tokens at every depth")
    depth: int | None = Field(None, ge=1, description="number of blocks with tokens of their own; none: all there are")
    structure: float = Field(10.0, ge=0, description="weight of the structure loss")
    prototype_momentum: float = Field(
        0.9, ge=0, lt=1, description="how much of a class prototype a batch of that class leaves as it was"
    )


@METHODS.register("fedmap")
class FedMAP(GradientMethod):
    """Texts are fixed anchors; clients train visual tokens, and keep a moving mean of each class's image features.

    With A_c the unit mean of the features of class c's texts, x an image's unit feature under the prompt and y its
    class, the loss is ``CE(s x A^T) + w mean (x . M_c - A_y . A_c)^2``, a mean over the batch and over the classes c
    that have been seen. M_c is the class's prototype. A batch changes those of its classes before its step:
    ``M_c <- N(a M_c + (1 - a) m_c)``, m_c the unit mean of its images; m_c itself for a class that nobody had seen.
    No gradient goes through M.

    Shared, averaged tensor by tensor: ``visual`` ``(depth, n, vision_dim)``, ``prototypes`` M ``(classes, embed_dim)``,
    ``seen`` ``(classes,)``, above 0 where somebody has. Personal: nothing. A client sends back unchanged the prototype
    of a class that it does not hold; the others show which classes it holds, and what they look like.

    Different from the paper, whose formulas are read from its released code: attributes are those of a file of the
    user's, or the task's templates; a batch is never taken in parts, which would move M several times; Adam, float32.
    """

    name: ClassVar[str] = "FedMAP"
    paper: ClassVar[str] = "Wei 2026, ICML"
    trains: ClassVar[str] = (
        "deep visual tokens (depth, n, vision_dim); class prototypes (classes, embed_dim) are counted"
    )
    requires: ClassVar[frozenset[str]] = frozenset({"visual prompts"})
    classes_apart: ClassVar[bool] = True
    Config = FedMAPConfig
    config: FedMAPConfig

    def __init__(self, config: FedMAPConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        backbone = setup.backbone
        self.depth = backbone.vision_layers if config.depth is None else config.depth
        if self.depth > backbone.vision_layers:
            raise ConfigError(
                f"option 'depth' is {self.depth}: the image tower of '{backbone.name}' has {backbone.vision_layers} "
                f"blocks; choose 1 to {backbone.vision_layers} (--set method.depth={backbone.vision_layers})"
            )
        check_attributes(config.attributes, setup)

    @property
    def encodes_texts(self) -> bool:
        return False

    def anchors(self, classes: Sequence[str]) -> Tensor:
        """Return A, the unit mean of each class's attribute features ``(classes, embed_dim)``."""
        return attribute_features(self.setup, self.config.attributes, classes)[1]

    def init_shared(self) -> PromptState:
        """Return tokens N(0, 0.02), and the anchors as prototypes that nobody has seen."""
        tokens = start_visual(self.setup, self.depth * self.config.n_visual, "fedmap")
        return PromptState(
            {
                "visual": tokens.view(self.depth, self.config.n_visual, -1),
                "prototypes": self.anchors(self.setup.classes).cpu(),
                "seen": torch.zeros(len(self.setup.classes)),
            }
        )

    # --------------------------------------------------------------------------------------------- training

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        classes, labels = training_classes(self.config.label_space, self.setup, data)
        scale, answers = self.setup.backbone.logit_scale, data.train.labels.to(self.setup.backbone.device)
        texts, anchors = self.anchors(classes), self.anchors(self.setup.classes)

        def loss(parameters: Parameters, features: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
            images = prompted_images(self.setup, data.train, rows, *layers(parameters["visual"])).features
            units, truth = F.normalize(images, dim=-1), answers[rows]
            move_prototypes(
                parameters["prototypes"], parameters["seen"], units.detach(), truth, self.config.prototype_momentum
            )
            of_class, logits = cross_entropy_on(labels, cosine_logits(images, texts, scale), rows)
            structure = structure_loss(units, parameters["prototypes"], anchors, parameters["seen"], truth)
            return of_class + self.config.structure * structure, logits

        return LocalObjective(broadcast.shared, labels, loss, is_mean=False, constants=BUFFERS)

    # ------------------------------------------------------------------------------------------- prediction

    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        return self.anchors(classes)

    @torch.no_grad()
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        images = visual_features(self.setup, split, *layers(shared["visual"])).features
        return cosine_logits(images, self.anchors(classes), self.setup.backbone.logit_scale)


def layers(tokens: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the tokens at the input ``(n, vision_dim)``, and the deeper ones ``(depth - 1, n, vision_dim)`` if any."""
    return tokens[0], tokens[1:] if len(tokens) > 1 else None


@torch.no_grad()
def move_prototypes(prototypes: Tensor, seen: Tensor, images: Tensor, labels: Tensor, momentum: float) -> None:
    """Move the prototypes of a batch's classes towards its images, in place, and note that they were seen.

    Args:
        prototypes: Unit features ``(classes, embed_dim)``.
        seen: Above 0 for a class that was seen before, ``(classes,)``.
        images: Unit features of the batch, ``(batch, embed_dim)``.
        labels: Their classes.
        momentum: How much of the prototype of a class that was seen is kept.
    """
    held = labels.unique()
    means = torch.stack([F.normalize(images[labels == label].mean(0), dim=-1) for label in held])
    kept = momentum * (seen[held] > 0).to(means)[:, None]
    prototypes[held] = F.normalize(kept * prototypes[held] + (1 - kept) * means, dim=-1)
    seen[held] = 1.0


def structure_loss(images: Tensor, prototypes: Tensor, anchors: Tensor, seen: Tensor, labels: Tensor) -> Tensor:
    """Return how far images lie to the prototypes otherwise than their classes' texts lie to all classes' texts.

    Args:
        images: Unit features ``(batch, embed_dim)``.
        prototypes: Unit features ``(classes, embed_dim)``.
        anchors: Unit features of the classes' texts, likewise.
        seen: Above 0 for the classes that count.
        labels: The images' classes.
    """
    counted = seen > 0
    relations = images @ prototypes[counted].T
    wanted = anchors[labels] @ anchors[counted].T
    return (relations - wanted).square().mean()
