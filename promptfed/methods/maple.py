"""FedMaPLe: deep text prompts, coupled to visual ones (Khattak et al., CVPR 2023, federated in FedTPG's comparison)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import ClassTokens, PromptedImages, PromptedText
from promptfed.class_losses import class_loss
from promptfed.class_sample import EVERY_CLASS, ClassSample
from promptfed.cosines import cosine_logits
from promptfed.errors import ConfigError
from promptfed.local_training import GradientMethod, LocalObjective, LocalTraining, Parameters
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.leading_words import leading_words, remaining_words
from promptfed.prompts.text_context import LabelSpace, training_classes
from promptfed.prompts.visual_prompt import prompted_images, visual_features
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split

PAPERS_DEPTH = 9


class MaPLeConfig(LocalTraining, LabelSpace):
    """FedMaPLe's options; see docs/methods.md for the paper's values."""

    n_ctx: int = Field(2, ge=1, le=64, description="number of context tokens at every depth, in both towers")
    depth: int | None = Field(
        None, ge=1, description="number of blocks with contexts of their own; none: 9, or all that both towers have"
    )
    init: str = Field("a photo of a", description="the first n_ctx of these words start depth 0; empty: N(0, 0.02)")
    keep_words: bool = Field(
        True, description="words of `init` that the context does not replace stay before the class name, as released"
    )
    coupling_rate: float = Field(1.0, gt=0, le=1, description="learning rate of the coupling, as a share of lr")


@METHODS.register("maple")
class MaPLe(GradientMethod):
    """Coupled prompts of both towers: the visual tokens are a linear function of the text contexts.

    A text context ``P_d`` stands in the slots at the input of text block d, for d below ``depth``; the visual tokens at
    the input of image block d are ``V_d = P_d W_d^T + b_d``.

    Shared, averaged tensor by tensor: ``ctx`` ``(depth, n_ctx, text_dim)``, the couplings ``weight``
    ``(depth, vision_dim, text_dim)`` and ``bias`` ``(depth, vision_dim)``. Personal: nothing. The mean of products is
    not the product of means, so clients' visual tokens are not averaged exactly; their couplings are.
    Loss: cross-entropy of scaled cosines. Images are encoded with the prompt in training and in evaluation.
    The texts are "<ctx> of a {class}." by default: with two tokens of "a photo of a" learned, the released code keeps
    the other words in the sentence.

    Shapes and start follow the published description of MaPLe from memory, unchecked against its code; of the
    federated one only a variant with free visual tokens is known for certain. Different: Adam, no
    augmentation, float32 masters.
    """

    name: ClassVar[str] = "FedMaPLe"
    paper: ClassVar[str] = "MaPLe: Khattak et al. 2023, arXiv 2210.03117; federated: Qiu et al. 2024, arXiv 2310.06123"
    trains: ClassVar[str] = "deep text contexts (depth, n_ctx, dim), their coupling to visual ones (depth, vision, dim)"
    classes_apart: ClassVar[bool] = True
    requires: ClassVar[frozenset[str]] = frozenset({"visual prompts", "deep text prompts"})
    takes_sigmoid_loss: ClassVar[bool] = True
    Config = MaPLeConfig
    config: MaPLeConfig

    def __init__(self, config: MaPLeConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        backbone = setup.backbone
        blocks = min(backbone.text_layers, backbone.vision_layers)
        self.depth = min(PAPERS_DEPTH, blocks) if config.depth is None else config.depth
        if self.depth > blocks:
            raise ConfigError(
                f"option 'depth' is {self.depth}: the towers of '{backbone.name}' have {backbone.text_layers} (text) "
                f"and {backbone.vision_layers} (image) blocks; choose 1 to {blocks} (--set method.depth={blocks})"
            )
        self._words = leading_words(backbone, config.init, config.n_ctx)
        self._kept_words = remaining_words(backbone, config.init, config.n_ctx) if config.keep_words else ""
        self._tokens: dict[tuple[str, ...], ClassTokens] = {}

    def init_shared(self) -> PromptState:
        """Return contexts N(0, 0.02), the first from words, and couplings uniform in +-1/sqrt(text_dim).

        All couplings start alike, as PyTorch starts a linear layer.
        """
        backbone, draw = self.setup.backbone, torch_stream(self.setup.seed, "maple")
        ctx = 0.02 * torch.randn(self.depth, self.config.n_ctx, backbone.text_dim, generator=draw)
        if self._words is not None:
            ctx[0] = self._words
        bound = 1 / math.sqrt(backbone.text_dim)
        weight = bound * (2 * torch.rand(backbone.vision_dim, backbone.text_dim, generator=draw) - 1)
        bias = bound * (2 * torch.rand(backbone.vision_dim, generator=draw) - 1)
        return PromptState(
            {"ctx": ctx, "weight": weight.expand(self.depth, -1, -1), "bias": bias.expand(self.depth, -1)}
        )

    # --------------------------------------------------------------------------------------------- training

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        classes, labels = training_classes(self.config.label_space, self.setup, data)
        scale, fit = self.setup.backbone.logit_scale, class_loss(self.config, self.setup, data)

        def texts(parameters: Parameters) -> list[PromptedText]:
            return [self._prompted(parameters["ctx"], classes)]

        def loss(
            parameters: Parameters, features: Sequence[Tensor], rows: Tensor, sample: ClassSample = EVERY_CLASS
        ) -> tuple[Tensor, Tensor]:
            ctx, deep = visual_tokens(parameters)
            images = prompted_images(self.setup, data.train, rows, ctx, deep).features
            return fit(labels, cosine_logits(images, features[0], scale), rows, sample)

        slower = dict.fromkeys(("weight", "bias"), self.config.coupling_rate)
        return LocalObjective(broadcast.shared, labels, loss, texts, slower)

    # ------------------------------------------------------------------------------------------- prediction

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        """Return the tokens of the first depth; the deeper ones stand inside the tower, without words."""
        return PromptState({"ctx": shared["ctx"][0]})

    @torch.no_grad()
    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        text = self._prompted(shared["ctx"].to(self.setup.backbone.device), classes)
        return F.normalize(self.setup.backbone.encode_prompted_texts([text])[0], dim=-1)

    @torch.no_grad()
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        texts = self.class_features(shared, personal, classes)
        return cosine_logits(self._images(shared, split).features, texts, self.setup.backbone.logit_scale)

    def _images(self, shared: PromptState, split: Split) -> PromptedImages:
        ctx, deep = visual_tokens(shared)
        return visual_features(self.setup, split, ctx, deep)

    def _prompted(self, ctx: Tensor, classes: Sequence[str]) -> PromptedText:
        """Return the texts "<ctx> <kept words> {class}." with the deeper contexts of ``ctx``."""
        names = tuple(classes)
        if names not in self._tokens:
            sentences = [f"{self._kept_words} {name}".lstrip() for name in names]
            self._tokens[names] = self.setup.backbone.class_tokens(sentences, self.config.n_ctx)
        return PromptedText(ctx[0], self._tokens[names], ctx[1:] if len(ctx) > 1 else None)


def visual_tokens(prompt: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return ``V_d = P_d W_d^T + b_d`` for every depth.

    Returns:
        The tokens at the input ``(n_ctx, vision_dim)``, and the deeper ones ``(depth - 1, n_ctx, vision_dim)``, None at
        depth 1.
    """
    tokens = torch.baddbmm(prompt["bias"][:, None], prompt["ctx"], prompt["weight"].transpose(1, 2))
    return tokens[0], tokens[1:] if len(tokens) > 1 else None
