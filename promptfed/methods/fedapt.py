"""FedAPT: a shared meta prompt that each domain's key turns into a prompt of its own (Su et al., AAAI 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import PromptedText
from promptfed.class_losses import cross_entropy_on
from promptfed.class_sample import EVERY_CLASS, ClassSample
from promptfed.cosines import cosine_logits
from promptfed.local_training import GradientMethod, LocalObjective, Parameters
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.domains import Domains, mean_over_domains, mixture_logits
from promptfed.prompts.text_context import ContextConfig, ContextTuner, training_classes
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split


class FedAPTConfig(ContextConfig):
    """FedAPT's options; see docs/methods.md for the paper's values."""

    n_ctx: int = Field(8, ge=1, le=64, description="number of context tokens (taken from `init` when that is given)")
    class_specific: bool = Field(True, description="one meta prompt for each class (the paper's), or one for all")
    tau: float = Field(0.01, gt=0, description="temperature of the domain weights at inference; small is one-hot")


@METHODS.register("fedapt")
class FedAPT(GradientMethod):
    """Clients of domain i train ``ctx * (1 + key_i)`` by CE(class) + CE(domain); the server averages.

    Shared: the meta prompt ``ctx`` ``(classes, n_ctx, dim)`` and the adaptive network ``query``
    ``(domains, embed_dim)``, which reads an image's domain from its feature, not normalised: ``r = query f(x)``.
    Personal: nothing. The keys ``(domains, n_ctx, dim)``, U(0, 1), are never trained and never sent: everybody
    draws them from the run's seed, where the released code sends client i its key.
    Inference: ``w = softmax(standardised r / tau)``, the same for everybody, so a new client needs no key.

    Different from the released code: it encodes the texts anew for every image with ``ctx * (1 + sum_i w_i key_i)``;
    here the text features of the D prompts are encoded once and ``w`` mixes those. The two agree where w is one-hot,
    as tau 0.01 nearly makes it. A class without a meta prompt of its own gets the mean over the base classes (the
    paper has none for it).
    """

    name: ClassVar[str] = "FedAPT"
    paper: ClassVar[str] = "Su et al. 2024, AAAI, arXiv 2211.07864"
    trains: ClassVar[str] = "meta prompt (classes, n_ctx, dim), adaptive network (domains, embed_dim)"
    classes_apart: ClassVar[bool] = True
    aggregators: ClassVar[tuple[str, ...]] = ("mean", "uniform")
    Config = FedAPTConfig
    config: FedAPTConfig

    def __init__(self, config: FedAPTConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.tuner, self.domains = ContextTuner(config, setup), Domains(setup)
        shape = (len(self.domains), self.tuner.n_ctx, setup.backbone.text_dim)
        self.keys = torch.rand(shape, generator=torch_stream(setup.seed, "fedapt keys")).to(setup.backbone.device)
        self._cache: tuple[PromptState, tuple[str, ...], Tensor] | None = None

    def init_shared(self) -> PromptState:
        dim = self.setup.backbone.embed_dim
        draw = torch.rand(len(self.domains), dim, generator=torch_stream(self.setup.seed, "fedapt query"))
        return PromptState({**self.tuner.start(), "query": (2 * draw - 1) / math.sqrt(dim)})

    # --------------------------------------------------------------------------------------------- training

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        classes, labels = training_classes(self.config.label_space, self.setup, data)
        images, scale = self.setup.features.images(data.train), self.setup.backbone.logit_scale
        domain = self.domains.of(data.client)
        key = self.keys[domain]

        def texts(parameters: Parameters) -> list[PromptedText]:
            return [self.tuner.prompted(parameters["ctx"] * (1 + key), classes)]

        def loss(
            parameters: Parameters, features: Sequence[Tensor], rows: Tensor, sample: ClassSample = EVERY_CLASS
        ) -> tuple[Tensor, Tensor]:
            logits = cosine_logits(images[rows], features[0], scale)
            of_class, _ = cross_entropy_on(labels, logits, rows, sample)
            of_domain = F.cross_entropy(images[rows] @ parameters["query"].T, torch.full_like(rows, domain))
            return of_class + of_domain, logits

        return LocalObjective(broadcast.shared, labels, loss, texts)

    # ------------------------------------------------------------------------------------------- prediction

    def domain_weights(self, shared: PromptState, images: Tensor) -> Tensor:
        """Return ``w`` ``(n, domains)`` of image features ``(n, embed_dim)``, not normalised."""
        scores = images @ shared["query"].to(images.device).T
        centred = scores - scores.mean(-1, keepdim=True)
        variance = centred.square().sum(-1, keepdim=True) / max(scores.shape[-1] - 1, 1)  # unbiased, as released
        return (centred / variance.sqrt().clamp(min=1e-6) / self.config.tau).softmax(-1)

    @torch.no_grad()
    def _texts(self, shared: PromptState, classes: Sequence[str]) -> Tensor:
        """Return unit text features ``(domains, classes, embed_dim)``; the last ones are cached."""
        names = tuple(classes)
        if self._cache is None or self._cache[0] is not shared or self._cache[1] != names:
            ctx = shared["ctx"].to(self.setup.backbone.device)
            prompts = [self.tuner.prompted(ctx * (1 + key), names) for key in self.keys]
            features = F.normalize(torch.stack(self.setup.backbone.encode_prompted_texts(prompts)), dim=-1)
            self._cache = (shared, names, features)
        return self._cache[2]

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        """Return the meta prompt as each domain's key changes it."""
        keyed = {f"ctx, domain {number}": shared["ctx"] * (1 + key.cpu()) for number, key in enumerate(self.keys)}
        return PromptState(keyed)

    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        """Return text features in the middle of the domains; ``logits`` weighs the domains for each image."""
        return mean_over_domains(self._texts(shared, classes))

    @torch.no_grad()
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        images = self.setup.features.images(split)
        weights = self.domain_weights(shared, images)
        return mixture_logits(images, weights, self._texts(shared, classes), self.setup.backbone.logit_scale)
