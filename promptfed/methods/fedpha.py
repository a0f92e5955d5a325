"""FedPHA: a shared context of one length, and a local one of each client's own (Fang et al., ICML 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import PromptedText
from promptfed.class_losses import class_loss
from promptfed.class_sample import EVERY_CLASS, ClassSample
from promptfed.cosines import cosine_logits
from promptfed.local_training import LocalObjective, Parameters
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.text_context import (
    ContextConfig,
    ContextMethod,
    ContextTuner,
    training_classes,
    training_images,
)
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData

MOST_TOKENS = 64
ROUNDING = 1e-9
"""A share times a count that is whole but for rounding counts as whole: 5 (1 - 0.8) is 1."""


class FedPHAConfig(ContextConfig):
    """Options of both contexts, and of the losses between them."""

    local_lengths: tuple[int, ...] = Field(
        (),
        description="tokens of the local contexts by client, such as 4,16,32: client k has the k-th, over and over; "
        "empty: as many as the shared one",
    )
    ratio: float = Field(
        0.8, ge=0, le=1, description="share of the shared context's directions, the weakest, that the projection keeps"
    )
    projection: Literal["complement", "weak"] = Field(
        "complement",
        description="what the projection keeps: all but the shared context's strongest directions, or its weak "
        "directions alone, as the released code",
    )
    pull: float = Field(1.0, ge=0, description="weight of the pull of local features to those of the projection")
    push: float = Field(1.0, ge=0, description="weight of the push of local features away from the shared ones")
    distance: float = Field(1.0, ge=0, le=2, description="distance of unit features beyond which nothing is pushed")

    @field_validator("local_lengths", mode="before")
    @classmethod
    def _are_listed(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return [value] if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("local_lengths")
    @classmethod
    def _are_lengths(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= length <= MOST_TOKENS for length in lengths):
            raise ValueError(f"give lengths from 1 to {MOST_TOKENS}")
        return lengths


@METHODS.register("fedpha")
class FedPHA(ContextMethod):
    """A client trains a shared context P_G and a local one P_L of its own length, and predicts with P_L.

    Loss: ``CE(T_L) + CE(T_G) + pull mean (T_L - T_Q)^2 + push mean_c max(0, d - |T_L - T_G|)``, with T the unit
    text features. T_Q are those of the projection ``Q = P_L - P_L V V^T``; the columns of V are the
    ``(1 - ratio) n`` strongest right singular vectors of P_G. The pull asks that P_L does without these directions,
    the push that its features differ from the shared ones.

    Shared: ``ctx`` P_G ``(n_ctx, dim)``, averaged. Personal: ``local`` P_L ``(n_k, dim)``. Empty until a client first
    trains; then P_L starts from noise, of which a shorter one has the first rows. Without a personal part P_G predicts.

    Different from the paper, whose formulas are read from its released code: the code's projection keeps the span of
    P_G's other singular vectors alone, so that almost nothing of P_L is left (``projection=weak``); its words call
    that the null space, which is what is kept here. No gradient goes through the singular vectors, which have none
    where two values are equal. In the code with several lengths the feature of a short context is read at the end of
    the longest text; here each has tokens of its own. Adam, float32.
    """

    name: ClassVar[str] = "FedPHA"
    paper: ClassVar[str] = "Fang et al. 2025, ICML, PMLR 267"
    trains: ClassVar[str] = "two text contexts, (n_ctx, dim) and (n_k, dim), the first of them sent"
    keeps: ClassVar[str] = "images, local context"
    classes_apart: ClassVar[bool] = True
    takes_sigmoid_loss: ClassVar[bool] = True
    Config = FedPHAConfig
    config: FedPHAConfig

    def __init__(self, config: FedPHAConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self._tuners = {self.tuner.n_ctx: self.tuner}
        longest = max(config.local_lengths, default=0)
        if longest > self.tuner.n_ctx:
            self.tuner_of(longest).tokens(setup.classes)

    def length(self, client: int) -> int:
        """Return how many tokens the local context of ``client`` has."""
        lengths = self.config.local_lengths
        return lengths[client % len(lengths)] if lengths else self.tuner.n_ctx

    def tuner_of(self, length: int) -> ContextTuner:
        """Return what makes and reads contexts of ``length`` tokens."""
        if length not in self._tuners:
            config = self.config.model_copy(update={"n_ctx": length, "init": ""})
            self._tuners[length] = ContextTuner(config, self.setup)
        return self._tuners[length]

    def local_start(self, length: int) -> Tensor:
        """Return the local context of ``length`` tokens that a client starts from: words if any, then noise."""
        stream = torch_stream(self.setup.seed, "context", "local")
        noise = 0.02 * torch.randn(MOST_TOKENS, self.setup.backbone.text_dim, generator=stream)
        start = noise[:length]
        if self.config.class_specific:
            start = start.expand(len(self.setup.classes), -1, -1)
        if not self.config.init:
            return start
        words = self.tuner.start()["ctx"][..., :length, :]
        return torch.cat([words, start[..., words.shape[-2] :, :]], -2)

    # --------------------------------------------------------------------------------------------- training

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        config, scale = self.config, self.setup.backbone.logit_scale
        classes, labels = training_classes(config.label_space, self.setup, data)
        images, fit = training_images(self.setup, data), class_loss(config, self.setup, data)
        local = personal["local"] if len(personal) else self.local_start(self.length(data.client))

        def texts(parameters: Parameters) -> list[PromptedText]:
            contexts = [parameters["local"], parameters["ctx"]]
            if config.pull:
                strong = strong_directions(parameters["ctx"], config.ratio, config.projection)
                contexts.append(without(parameters["local"], *strong))
            return [self.prompted(ctx, classes) for ctx in contexts]

        def loss(
            parameters: Parameters, features: Sequence[Tensor], rows: Tensor, sample: ClassSample = EVERY_CLASS
        ) -> tuple[Tensor, Tensor]:
            logits, common = (cosine_logits(images[rows], some, scale) for some in features[:2])
            of_local, _ = fit(labels, logits, rows, sample)
            of_shared, _ = fit(labels, common, rows, sample)
            return of_local + of_shared, logits

        def align(parameters: Parameters, features: Sequence[Tensor], sample: ClassSample) -> Tensor:
            units = [F.normalize(some, dim=-1) for some in features]
            total = config.push * pushed_apart(units[0], units[1], config.distance, sample)
            return total + config.pull * pulled(units[0], units[2], sample) if config.pull else total

        start = PromptState({"ctx": broadcast.shared["ctx"], "local": local})
        return LocalObjective(start, labels, loss, texts, penalties=(align,))

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        return PromptState({"ctx": trained["ctx"]}), PromptState({"local": trained["local"]})

    # ------------------------------------------------------------------------------------------- prediction

    def prompted(self, ctx: Tensor, classes: Sequence[str]) -> PromptedText:
        """Return the texts "<context> {class}." of a context of any length."""
        return self.tuner_of(ctx.shape[-2]).prompted(ctx, classes)

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        return PromptState({"local": personal["local"]} if len(personal) else {"ctx": shared["ctx"]})

    def texts(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Sequence[PromptedText]:
        device = self.setup.backbone.device
        return [self.prompted(ctx.to(device), classes) for ctx in self.text_contexts(shared, personal).values()]

    def blend(self, shared: PromptState, personal: PromptState, alpha: float) -> PromptState | None:
        """Return the straight path from P_G to P_L; None where their lengths differ."""
        if shared["ctx"].shape != personal["local"].shape:
            return None
        return PromptState({"local": torch.lerp(shared["ctx"], personal["local"], alpha)})


def strong_directions(ctx: Tensor, ratio: float, projection: Literal["complement", "weak"]) -> tuple[Tensor, bool]:
    """Return some right singular vectors of a context as rows ``(k, dim)``, and whether they are what is kept.

    Args:
        ctx: The shared context ``(..., n, dim)``; of several classes, all rows count together.
        ratio: Share of the directions, from the weakest on, that are kept.
        projection: "complement" gives the strong ones, which go; "weak" gives the weak ones, which alone stay.
    """
    vectors = torch.linalg.svd(ctx.detach().flatten(0, -2), full_matrices=False).Vh
    strong = int((1 - ratio) * len(vectors) + ROUNDING)
    return (vectors[:strong], False) if projection == "complement" else (vectors[strong:], True)


def without(ctx: Tensor, directions: Tensor, is_kept: bool) -> Tensor:
    """Return ``ctx`` ``(..., dim)`` without its part along orthonormal ``directions`` ``(k, dim)``, or that alone."""
    part = ctx @ directions.T @ directions
    return part if is_kept else ctx - part


def pulled(local: Tensor, projected: Tensor, sample: ClassSample = EVERY_CLASS) -> Tensor:
    """Return the mean squared difference of unit features ``(classes, embed_dim)``."""
    return sample.mean((local - projected).square().mean(-1))


def pushed_apart(local: Tensor, common: Tensor, distance: float, sample: ClassSample = EVERY_CLASS) -> Tensor:
    """Return the mean over classes of what unit features ``(classes, embed_dim)`` lack of ``distance``."""
    return sample.mean(F.relu(distance - torch.linalg.vector_norm(local - common, dim=-1)))
