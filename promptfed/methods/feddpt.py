"""Fed-DPT: a text prompt for each domain, weighed by an image's attention to visual prompts (Wei et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import PromptedText
from promptfed.class_losses import class_loss
from promptfed.class_sample import EVERY_CLASS, ClassSample
from promptfed.local_training import GradientMethod, LocalObjective, Parameters
from promptfed.method import METHODS, Shape, shapes
from promptfed.prompt_state import PromptState
from promptfed.prompts.domains import Domains, mean_over_domains, mixture_logits
from promptfed.prompts.text_context import ContextConfig, ContextTuner, training_classes
from promptfed.prompts.visual_prompt import prompted_images, start_visual, visual_features
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split


class FedDPTConfig(ContextConfig):
    """Fed-DPT's options; see docs/methods.md for the paper's values."""

    optimizer: Literal["sgd", "adam", "adamw"] = Field("adamw", description="of a client's steps")
    external_momentum: float = Field(
        0.99, ge=0, le=1, description="how much of its copy of another domain's text prompt a client keeps each round"
    )
    loss: Literal["cross_entropy", "sigmoid", "asymmetric", "cosine"] = Field(  # type: ignore[assignment]
        "cross_entropy",
        description="of scaled cosines: a softmax over classes, a sigmoid of each class, the asymmetric one, or "
        "1 - cosine to the true class (the paper's)",
    )


@METHODS.register("feddpt")
class FedDPT(GradientMethod):
    """Each domain has a text prompt ``P_k``, weighed by an image's attention to visual prompt tokens.

    There are as many visual tokens as domains, shared by all. With ``w(x)`` the class token's attention to those tokens
    in the last block, an image is compared with ``T_c(x) = sum_k w_k(x) N(g(P_k, c))`` (the paper's equation 5).

    Shared: ``text/k`` ``(n_ctx, dim)`` for domain k, and ``visual`` ``(domains, vision_dim)``. A client of domain k
    trains and sends ``text/k`` and ``visual`` only. A tensor is averaged over the clients that sent it, which puts the
    domains' text prompts side by side (the paper's concatenation) and averages the visual ones.
    Personal: the client's copies of the other domains' text prompts. They have no gradient: when a round begins each
    moves towards the download, ``P_j <- a P_j + (1 - a) downloaded``. A client that never took part uses the
    server's own; the mixture needs no domain label.

    The paper's full text was not at hand: shapes, the mean over attention heads and cross-entropy in place of its
    cosine loss are inferred or second hand. Different from it: the other domains' text features cannot change within
    a round and are encoded once in it, so a step encodes the client's own only, C texts instead of D x C.
    """

    name: ClassVar[str] = "Fed-DPT"
    paper: ClassVar[str] = "Wei et al. 2023, arXiv 2310.03103"
    trains: ClassVar[str] = "text context of the client's domain (n_ctx, dim), visual context (domains, vision_dim)"
    keeps: ClassVar[str] = "images, copies of the other domains' contexts"
    classes_apart: ClassVar[bool] = True
    requires: ClassVar[frozenset[str]] = frozenset({"visual prompts"})
    aggregators: ClassVar[tuple[str, ...]] = ("mean", "uniform")
    takes_sigmoid_loss: ClassVar[bool] = True
    Config = FedDPTConfig
    config: FedDPTConfig

    def __init__(self, config: FedDPTConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.tuner, self.domains = ContextTuner(config, setup), Domains(setup)

    # ------------------------------------------------------------------------------------------------ state

    def init_shared(self) -> PromptState:
        """Return equal text prompts for all domains, so that the mixture starts as PromptFL's one prompt."""
        texts = {text_of(k): self.tuner.start()["ctx"] for k in range(len(self.domains))}
        return PromptState({**texts, "visual": start_visual(self.setup, len(self.domains), "feddpt")})

    def init_personal(self, client: int) -> PromptState:
        return self._external(self.init_shared(), client)

    def uploads(self, client: int, sent: PromptState) -> dict[str, Shape]:
        return shapes(sent, [text_of(self.domains.of(client)), "visual"])

    def _external(self, shared: PromptState, client: int) -> PromptState:
        """Return the text prompts of ``shared`` of all domains but ``client``'s."""
        domains = set(range(len(self.domains))) - {self.domains.of(client)}
        return PromptState({text_of(k): shared[text_of(k)] for k in domains})

    def _moved(self, broadcast: Broadcast, client: int, personal: PromptState) -> PromptState:
        """Return the client's copies of the other domains' text prompts in this round."""
        downloaded = self._external(broadcast.shared, client)
        return downloaded.interpolate(personal, self.config.external_momentum) if len(personal) else downloaded

    # --------------------------------------------------------------------------------------------- training

    @property
    def obstacle_to_sampling(self) -> str:
        return "" if self.config.loss == "cross_entropy" else "its cosine loss is no softmax over the classes"

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        classes, labels = training_classes(self.config.label_space, self.setup, data)
        domain, scale = self.domains.of(data.client), self.setup.backbone.logit_scale
        own_name, answers = text_of(domain), labels.to(self.setup.backbone.device)
        others = self._texts(self._moved(broadcast, data.client, personal), classes)
        fit = class_loss(self.config, self.setup, data)

        def texts(parameters: Parameters) -> list[PromptedText]:
            return [self.tuner.prompted(parameters[own_name], classes)]

        def loss(
            parameters: Parameters, features: Sequence[Tensor], rows: Tensor, sample: ClassSample = EVERY_CLASS
        ) -> tuple[Tensor, Tensor]:
            prompted = prompted_images(self.setup, data.train, rows, parameters["visual"])
            fixed = sample.of(others, 1)
            texts_by_domain = torch.cat([fixed[:domain], F.normalize(features[0], dim=-1)[None], fixed[domain:]])
            logits = mixture_logits(prompted.features, prompted.attention, texts_by_domain, scale)
            if self.config.loss != "cosine":
                return fit(labels, logits, rows, sample)
            right = logits.gather(1, answers[rows][:, None]) / scale
            return 1 - right.mean(), logits

        return LocalObjective(
            PromptState({name: broadcast.shared[name] for name in (own_name, "visual")}), labels, loss, texts
        )

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        return trained, self._moved(broadcast, data.client, personal)

    # ------------------------------------------------------------------------------------------- prediction

    @torch.no_grad()
    def _texts(self, prompts: PromptState, classes: Sequence[str]) -> Tensor:
        """Return unit text features ``(domains, classes, embed_dim)`` of those domains' text prompts in ``prompts``."""
        backbone = self.setup.backbone
        contexts = [prompts[text_of(k)] for k in range(len(self.domains)) if text_of(k) in prompts]
        texts = [self.tuner.prompted(ctx.to(backbone.device), classes) for ctx in contexts]
        empty = torch.empty(0, len(classes), backbone.embed_dim, device=backbone.device)
        features = backbone.encode_prompted_texts(texts)
        return F.normalize(torch.stack(features), dim=-1) if features else empty

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        prompts = {**shared, **personal}
        return PromptState({name: prompts[name] for name in map(text_of, range(len(self.domains))) if name in prompts})

    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        """Return text features for an image that attends to all domains alike; ``logits`` weighs them by image."""
        return mean_over_domains(self._texts(PromptState({**shared, **personal}), classes))

    @torch.no_grad()
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        images = visual_features(self.setup, split, shared["visual"])
        texts = self._texts(PromptState({**shared, **personal}), classes)
        return mixture_logits(images.features, images.attention, texts, self.setup.backbone.logit_scale)

    def blend(self, shared: PromptState, personal: PromptState, alpha: float) -> PromptState:
        """Move the copies of the other domains' prompts from the server's (0) to the client's own (1)."""
        return PromptState({name: torch.lerp(shared[name], copy, alpha) for name, copy in personal.items()})


def text_of(domain: int) -> str:
    """Return the name of a domain's text prompt."""
    return f"text/{domain}"
