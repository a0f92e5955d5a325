"""FedMGP: several groups of text and visual prompts, of which a client sends a few (Bo et al., NeurIPS 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import ClassTokens, PromptedText
from promptfed.class_losses import class_loss
from promptfed.class_sample import EVERY_CLASS, ClassSample
from promptfed.cosines import cosine_logits
from promptfed.errors import ConfigError
from promptfed.local_training import GradientMethod, LocalObjective, LocalTraining, Parameters
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.leading_words import leading_words, remaining_words
from promptfed.prompts.text_context import LabelSpace, training_classes, training_images
from promptfed.prompts.visual_prompt import prompted_images, start_visual, visual_features
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split

PARTS = "ctx", "visual"


class FedMGPConfig(LocalTraining, LabelSpace):
    """FedMGP's options; see docs/methods.md for the paper's values."""

    groups: int = Field(5, ge=1, le=32, description="groups of prompts that a client trains")
    sent: int = Field(2, ge=1, le=32, description="groups that a client sends each round, and is sent")
    n_ctx: int = Field(2, ge=1, le=64, description="number of context tokens of a group")
    n_visual: int = Field(2, ge=0, le=64, description="number of visual prompt tokens of a group; 0: texts alone")
    init: str = Field("a photo of a", description="the first n_ctx of these words start each group; empty: N(0, 0.02)")
    spread: float = Field(0.01, ge=0, description="standard deviation of the noise by which groups differ at the start")
    diversity: float = Field(1.0, ge=0, description="weight of the diversity loss")
    diversity_measure: Literal["l1", "cosine"] = Field(
        "l1", description="how alike two groups are: minus the mean distance of their features, or their cosine"
    )
    temperature: float = Field(1.0, gt=0, description="of the draw of groups; small takes the most similar ones")


@METHODS.register("fedmgp")
class FedMGP(GradientMethod):
    """Each client trains G groups of a text context P_g and visual tokens V_g; s of them are sent and averaged.

    Loss: ``mean_g CE(s cos(f(x, V_g), T_g)) + w L_div``, with ``L_div`` the mean over pairs of groups of how alike
    their unit features are, of texts over classes and of images over the batch, and of both the mean. Prediction takes
    the mean of the groups' logits.
    A client draws the s groups without replacement, with probabilities ``softmax(m_g / temperature)``: m_g is the
    largest cosine of group g to one of the s global groups that it was sent, in round 1 the same for all. The r-th
    group drawn is sent as group r. The next broadcast of group r goes to the place it was drawn from.

    Shared: ``ctx`` ``(s, n_ctx, text_dim)`` and ``visual`` ``(s, n_visual, vision_dim)``, averaged. Personal: the same
    of all G groups, and ``places`` ``(s,)``, where the global ones stand among them. Empty until a client first trains;
    then its groups are those of the start, the same for all. Without a personal part the s global groups predict.

    Different from the paper, whose text we had in part, and from its code: a text and a visual prompt are drawn as the
    pair that they were trained as, m_g being the mean of both cosines (the code draws them apart); the diversity loss
    drives groups apart (the code adds its absolute value, which draws them together); Adam, float32. Without visual
    tokens T is the unit mean of the groups' text features.
    """

    name: ClassVar[str] = "FedMGP"
    paper: ClassVar[str] = "Bo et al. 2025, NeurIPS, arXiv 2511.00480"
    trains: ClassVar[str] = "groups of a text context (n_ctx, dim) and visual tokens (n_visual, vision_dim)"
    keeps: ClassVar[str] = "images, the groups that are not sent"
    classes_apart: ClassVar[bool] = True
    takes_sigmoid_loss: ClassVar[bool] = True
    Config = FedMGPConfig
    config: FedMGPConfig

    def __init__(self, config: FedMGPConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        backbone = setup.backbone
        if config.sent > config.groups:
            raise ConfigError(
                f"option 'sent' is {config.sent}, but a client has {config.groups} groups: send at most all of them "
                f"(--set method.sent={config.groups})"
            )
        if config.n_visual and "visual prompts" not in backbone.abilities:
            raise ConfigError(
                f"method 'fedmgp' needs a backbone with visual prompts, which '{backbone.name}' has not: use "
                "--backbone tiny or an open_clip ViT, or groups of texts alone: --set method.n_visual=0"
            )
        self._words = leading_words(backbone, config.init, config.n_ctx)
        self._kept_words = remaining_words(backbone, config.init, config.n_ctx)
        self._tokens: dict[tuple[str, ...], ClassTokens] = {}

    # ------------------------------------------------------------------------------------------------ state

    def start(self) -> PromptState:
        """Return the groups that everybody starts from: words with some noise, or noise."""
        config, dim = self.config, self.setup.backbone.text_dim
        noise = torch.randn(config.groups, config.n_ctx, dim, generator=torch_stream(self.setup.seed, "fedmgp"))
        ctx = 0.02 * noise if self._words is None else self._words + config.spread * noise
        if not config.n_visual:
            return PromptState({"ctx": ctx})
        tokens = start_visual(self.setup, config.groups * config.n_visual, "fedmgp")
        return PromptState({"ctx": ctx, "visual": tokens.view(config.groups, config.n_visual, -1)})

    def init_shared(self) -> PromptState:
        return self.start().map(lambda tensor: tensor[: self.config.sent])

    def groups(self, shared: PromptState, personal: PromptState) -> PromptState:
        """Return a client's groups with the global ones in their places; those alone for a client without any."""
        if not len(personal):
            return PromptState({name: shared[name] for name in PARTS if name in shared})
        return PromptState(
            {name: personal[name].index_copy(0, personal["places"], shared[name]) for name in PARTS if name in shared}
        )

    # --------------------------------------------------------------------------------------------- training

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        classes, labels = training_classes(self.config.label_space, self.setup, data)
        scale, fit = self.setup.backbone.logit_scale, class_loss(self.config, self.setup, data)
        start = self.groups(broadcast.shared, self._with_groups(personal))
        frozen = None if self.config.n_visual else training_images(self.setup, data)

        def texts(parameters: Parameters) -> list[PromptedText]:
            return [self._prompted(ctx, classes) for ctx in parameters["ctx"]]

        def loss(
            parameters: Parameters, features: Sequence[Tensor], rows: Tensor, sample: ClassSample = EVERY_CLASS
        ) -> tuple[Tensor, Tensor]:
            if frozen is None:
                images = [prompted_images(self.setup, data.train, rows, v).features for v in parameters["visual"]]
            else:
                images = [frozen[rows]] * len(features)
            logits = [cosine_logits(*pair, scale) for pair in zip(images, features, strict=True)]
            total = torch.stack([fit(labels, some, rows, sample)[0] for some in logits]).mean()
            if self.config.diversity and self.config.groups > 1:
                sides = [torch.stack(list(features)), *([torch.stack(images)] if frozen is None else [])]
                alike = torch.stack([likeness(side, self.config.diversity_measure) for side in sides]).mean()
                total = total + self.config.diversity * alike
            return total, torch.stack(logits).mean(0)

        return LocalObjective(start, labels, loss, texts)

    def _with_groups(self, personal: PromptState) -> PromptState:
        if len(personal):
            return personal
        return PromptState({**self.start(), "places": torch.arange(self.config.sent)})

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        alike = torch.zeros(self.config.groups)
        if broadcast.round > 1:
            alike = similarities(trained, broadcast.shared)
        noise = torch_stream(self.setup.seed, "fedmgp groups", broadcast.round, data.client)
        places = draw_groups(alike / self.config.temperature, self.config.sent, noise)
        return trained.map(lambda tensor: tensor[places]), PromptState({**trained, "places": places})

    # ------------------------------------------------------------------------------------------- prediction

    @property
    def reads_texts_only(self) -> bool:
        return not self.config.n_visual

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        groups = self.groups(shared, personal)["ctx"]
        return PromptState({f"ctx, group {number}": ctx for number, ctx in enumerate(groups)})

    def texts(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Sequence[PromptedText]:
        device = self.setup.backbone.device
        return [self._prompted(ctx.to(device), classes) for ctx in self.groups(shared, personal)["ctx"]]

    def joint_features(
        self, features: Sequence[Tensor], shared: PromptState, personal: PromptState, classes: Sequence[str]
    ) -> Tensor:
        return F.normalize(torch.stack([F.normalize(texts, dim=-1) for texts in features]).mean(0), dim=-1)

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        if not self.config.n_visual:
            return super().logits(shared, personal, classes, split)
        with torch.no_grad():
            texts = self.setup.backbone.encode_prompted_texts(self.texts(shared, personal, classes))
            tokens, scale = self.groups(shared, personal)["visual"], self.setup.backbone.logit_scale
            images = [visual_features(self.setup, split, visual).features for visual in tokens]
            return torch.stack([cosine_logits(*pair, scale) for pair in zip(images, texts, strict=True)]).mean(0)

    def _prompted(self, ctx: Tensor, classes: Sequence[str]) -> PromptedText:
        """Return the texts "<ctx> <kept words> {class}."."""
        names = tuple(classes)
        if names not in self._tokens:
            sentences = [f"{self._kept_words} {name}".lstrip() for name in names]
            self._tokens[names] = self.setup.backbone.class_tokens(sentences, self.config.n_ctx)
        return PromptedText(ctx, self._tokens[names])


def likeness(features: Tensor, measure: Literal["l1", "cosine"]) -> Tensor:
    """Return how alike groups are: the mean over pairs of groups and over rows; smaller is more different.

    Args:
        features: Of G groups, ``(G, rows, dim)``; brought to unit length.
        measure: "cosine", or "l1": minus the mean absolute difference of two features' numbers.
    """
    units = F.normalize(features, dim=-1)
    one, other = torch.triu_indices(len(units), len(units), offset=1, device=units.device)
    if measure == "cosine":
        return (units[one] * units[other]).sum(-1).mean()
    return -(units[one] - units[other]).abs().mean()


def similarities(groups: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Tensor:
    """Return of each group ``(G,)`` its largest cosine to a global group; text and visual prompts count alike."""
    cosines = [
        F.cosine_similarity(groups[name].flatten(1)[:, None], shared[name].flatten(1)[None], dim=-1)
        for name in PARTS
        if name in groups
    ]
    return torch.stack(cosines).mean(0).max(1).values


def draw_groups(logits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` groups one after the other, without replacement, with probabilities ``softmax(logits)``.

    The largest sums of a logit and Gumbel noise, in falling order, are such a draw; no small probability is lost.
    """
    noise = torch.empty(len(logits)).exponential_(generator=generator)
    return (logits - noise.log()).topk(count).indices
