"""FedCLIP: a small attention adapter on the frozen image features (Lu et al., arXiv 2302.13485)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.cosines import cosine_logits
from promptfed.local_training import GradientMethod, LocalObjective, LocalTraining, Parameters
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.templates import HandTemplate, template_features
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split


class FedCLIPConfig(LocalTraining, HandTemplate):
    """Options of training, and the sentence that stands for a class. See docs/methods.md for the learning rate."""

    lr: float = Field(0.02, gt=0, description="learning rate")


@METHODS.register("fedclip")
class FedCLIP(GradientMethod):
    """Clients train an attention adapter ``z' = a(z) * z`` on the image feature z (not normalised).

    ``a(z) = softmax(W2 tanh(W1 z + b1) + b2)`` weights the d dimensions of z. Classes are fixed hand-written sentences.
    ``logits = s N(z') N(T)^T``.

    Shared: ``w1``, ``w2`` ``(d, d)`` and ``b1``, ``b2`` ``(d,)``. Personal: nothing.
    The loss is the paper's symmetric contrast of a batch's images with their own classes' sentences, over
    temperature. Different: two samples of one class are not each other's negatives, their pairs are left out of the
    softmax; the sentences are encoded once; the learning rate is larger and Adam's eps is torch's 1e-8, the released
    code's 1e-6 (see docs/methods.md); the mean is weighted by sample count (``uniform`` is the paper's).
    """

    name: ClassVar[str] = "FedCLIP"
    paper: ClassVar[str] = "Lu et al. 2023, arXiv 2302.13485"
    trains: ClassVar[str] = "image feature adapter, 2 (d, d) + 2 (d,)"
    classes_apart: ClassVar[bool] = True
    mixes_examples: ClassVar[str] = "its loss contrasts the images of a batch with each other's sentences"
    Config = FedCLIPConfig

    def __init__(self, config: FedCLIPConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.template = config.template

    def init_shared(self) -> PromptState:
        """Return parameters uniform in +-1/sqrt(d), as torch starts linear layers.

        Then ``a`` is nearly the same for all dimensions and the start is nearly zero-shot.
        """
        width = self.setup.backbone.embed_dim
        draw = torch_stream(self.setup.seed, "adapter")
        shapes = {"w1": (width, width), "b1": (width,), "w2": (width, width), "b2": (width,)}
        return PromptState(
            {name: (2 * torch.rand(shape, generator=draw) - 1) / width**0.5 for name, shape in shapes.items()}
        )

    @property
    def encodes_texts(self) -> bool:
        return False

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        images = self.setup.features.images(data.train)
        texts = template_features(self.setup, self.setup.classes, self.template)
        labels, scale = data.train.labels.to(images.device), self.setup.backbone.logit_scale

        def loss(parameters: Parameters, features: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
            logits = cosine_logits(adapted(parameters, images[rows]), texts, scale)
            return contrast(logits, labels[rows]), logits

        return LocalObjective(broadcast.shared, data.train.labels, loss, is_mean=False)

    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        return F.normalize(template_features(self.setup, classes, self.template), dim=-1)

    @torch.no_grad()
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        images = self.setup.features.images(split)
        adapter = {name: tensor.to(images.device) for name, tensor in shared.items()}
        texts = self.class_features(shared, personal, classes)
        return cosine_logits(adapted(adapter, images), texts, self.setup.backbone.logit_scale)


def adapted(adapter: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Return ``z' = a(z) * z`` of features z ``(n, d)``."""
    activation = torch.tanh(F.linear(images, adapter["w1"], adapter["b1"]))
    return F.linear(activation, adapter["w2"], adapter["b2"]).softmax(-1) * images


def contrast(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the symmetric contrast of each image with all samples' sentences, and of each sentence with all images.

    Pairs of two samples of one class are left out on both sides. Soft targets that spread over such pairs do not help:
    samples of one class have the same sentence, so the loss is the one with the false negatives.

    Args:
        logits: ``(batch, classes)``.
        labels: ``(batch,)``.
    """
    pairs = logits[:, labels]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    pairs = pairs.masked_fill((labels[:, None] == labels) & ~itself, float("-inf"))
    right = torch.arange(len(labels), device=labels.device)
    return (F.cross_entropy(pairs, right) + F.cross_entropy(pairs.T, right)) / 2
