"""FedMVP: a network turns attributes of classes and patches of an image into visual prompts (Singha et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from promptfed.class_losses import class_loss
from promptfed.class_sample import EVERY_CLASS, ClassSample
from promptfed.cosines import cosine_logits
from promptfed.errors import ConfigError
from promptfed.local_training import GradientMethod, LocalObjective, LocalTraining, Parameters
from promptfed.method import METHODS
from promptfed.methods.fedtpg.generator import Attention, FeedForward, initial_parameters
from promptfed.prompt_state import PromptState
from promptfed.prompts.attributes import AttributesConfig, attribute_features, check_attributes
from promptfed.prompts.text_context import LabelSpace, training_classes, training_images
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split

BATCH = 64
"""Images that are encoded at a time in evaluation."""


class FedMVPConfig(LocalTraining, LabelSpace, AttributesConfig):
    """FedMVP's options; see docs/methods.md for the paper's values."""

    lr: float = Field(0.0003, gt=0, description="learning rate")
    label_space: Literal["all", "own"] = Field(
        "own", description="a client's softmax, and what the network sees: its own classes, or all base classes"
    )
    n_visual: int = Field(4, ge=1, le=64, description="number of visual prompt tokens that the network makes")
    heads: int = Field(4, ge=1, description="attention heads of the network")
    consistency: float = Field(10.0, ge=0, description="weight of the pull towards the frozen image feature")


class PromptFormer(nn.Module):
    """Patches ``(batch, patches, width)`` attend to attributes ``(M, embed_dim)``; their means are the prompt tokens.

    ``y = MHA(LN(E), LN(K), LN(K))`` with ``K = W A + b``, then ``y + FF(y)``, and of all places ``n`` means of
    neighbours: ``(batch, n, width)``.
    """

    def __init__(self, width: int, embed_dim: int, n: int, heads: int) -> None:
        super().__init__()
        self.n = n
        self.linear = nn.Linear(embed_dim, width)
        self.attend, self.feed = Attention(width, heads, width), FeedForward(width)

    def forward(self, patches: Tensor, attributes: Tensor) -> Tensor:
        keys = self.linear(attributes)[:, None].expand(-1, len(patches), -1)
        y = self.attend(patches.transpose(0, 1), keys)
        y = y + self.feed(y)
        return F.adaptive_avg_pool1d(y.permute(1, 2, 0), self.n).transpose(1, 2)


@METHODS.register("fedmvp")
class FedMVP(GradientMethod):
    """One network for all: each image's patches and the classes' attributes make the visual prompt of that image.

    With A the unit features of all attributes of the classes to choose from, an image's tokens are
    ``V = PromptFormer(patches, A)``, and x its feature under V. A class is the unit mean of its attributes' features.
    Loss: ``CE(s cos(x, T_c)) + w mean(1 - cos(x, f(image)))``, f the frozen tower.
    V depends on the *set* of classes, and classes never seen give a prompt too, so the classes are not apart.

    Shared: the network's parameters. Personal: nothing.

    Different from the paper: GPT-4o writes its attributes, and here a file of the user's has them, or the task's
    templates take their place; a class may have any number. From its code, which does not run as released: every batch
    takes a step, attributes are encoded once, keys and values are both normalised, f sees the image and no random flip
    of it (it is then cached), and the low-rank change of the attention, which clients switched on at a small loss
    and the server did not know of, is left out. Adam, float32.
    """

    name: ClassVar[str] = "FedMVP"
    paper: ClassVar[str] = "Singha et al. 2025, ICCV, arXiv 2504.20860"
    trains: ClassVar[str] = (
        "network from patches and attributes to visual tokens: a projection, attention, feed-forward"
    )
    requires: ClassVar[frozenset[str]] = frozenset({"visual prompts"})
    takes_sigmoid_loss: ClassVar[bool] = True
    Config = FedMVPConfig
    config: FedMVPConfig

    def __init__(self, config: FedMVPConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        backbone = setup.backbone
        if backbone.vision_dim % config.heads:
            raise ConfigError(
                f"option 'heads' is {config.heads}, which does not divide the width {backbone.vision_dim} of the image "
                f"tower of '{backbone.name}'; the paper's is 4"
            )
        check_attributes(config.attributes, setup)
        # On the meta device: the parameters come with each call, and making them must not draw random numbers.
        with torch.device("meta"):
            self._net = PromptFormer(backbone.vision_dim, backbone.embed_dim, config.n_visual, config.heads)

    @property
    def encodes_texts(self) -> bool:
        return False

    def init_shared(self) -> PromptState:
        shapes = {name: tuple(parameter.shape) for name, parameter in self._net.named_parameters()}
        return PromptState(initial_parameters(shapes, torch_stream(self.setup.seed, "fedmvp")))

    # --------------------------------------------------------------------------------------------- training

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        classes, labels = training_classes(self.config.label_space, self.setup, data)
        attributes, texts = self.attribute_features(classes)
        frozen, scale = training_images(self.setup, data), self.setup.backbone.logit_scale
        fit = class_loss(self.config, self.setup, data)

        def loss(
            parameters: Parameters, features: Sequence[Tensor], rows: Tensor, sample: ClassSample = EVERY_CLASS
        ) -> tuple[Tensor, Tensor]:
            images = self.images(parameters, data.train, rows, attributes)
            of_class, logits = fit(labels, cosine_logits(images, texts, scale), rows, sample)
            pull = 1 - F.cosine_similarity(images, frozen[rows], dim=-1).mean()
            return of_class + self.config.consistency * pull, logits

        return LocalObjective(broadcast.shared, labels, loss)

    def attribute_features(self, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return unit features of all attributes of ``classes`` ``(M, embed_dim)``, and each class's mean, unit too."""
        return attribute_features(self.setup, self.config.attributes, classes)

    def images(self, parameters: Mapping[str, Tensor], split: Split, rows: Tensor, attributes: Tensor) -> Tensor:
        """Return features ``(rows, embed_dim)`` of some images of ``split`` under the prompts that are made of them."""
        backbone, pixels = self.setup.backbone, self.setup.features.pixels(split, rows)
        tokens = functional_call(self._net, dict(parameters), (backbone.embed_patches(pixels), attributes), strict=True)
        return backbone.encode_prompted_images(pixels, tokens).features

    # ------------------------------------------------------------------------------------------- prediction

    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        return self.attribute_features(classes)[1]

    @torch.no_grad()
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        backbone = self.setup.backbone
        attributes, texts = self.attribute_features(classes)
        parameters = {name: tensor.to(backbone.device) for name, tensor in shared.items()}
        rows = torch.arange(len(split)).split(BATCH) if len(split) else ()
        parts = [self.images(parameters, split, some, attributes) for some in rows]
        empty = torch.empty(0, backbone.embed_dim, device=backbone.device)
        return cosine_logits(torch.cat([empty, *parts]), texts, backbone.logit_scale)

    def tuned_blend(self, shared: PromptState, tuned: PromptState, alpha: float) -> PromptState | None:
        """Return None: the prompt is made by a network, so there is no path in prompt space."""
        return None
