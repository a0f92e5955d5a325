"""pFedMoAP: a client's own prompt and those of its nearest peers, mixed by a gate (Luo et al., ICLR 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.aggregators.base import Aggregator, AggregatorWrapper
from promptfed.backbones.base import PromptedText
from promptfed.class_losses import cross_entropy_on
from promptfed.class_sample import EVERY_CLASS, ClassSample
from promptfed.local_training import LocalObjective, Parameters
from promptfed.method import METHODS, Shape, shapes
from promptfed.methods.pfedmoap.gate import Gate
from promptfed.prompt_state import PromptState, tensors_under
from promptfed.prompts.personal_context import LOCAL, personal_context
from promptfed.prompts.text_context import ContextConfig, ContextMethod, training_classes, training_images
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split, Update

EXPERT, POOL, INNER = "expert/", "pool/", "inner/"
CHUNK = 1 << 22
"""Entries of mixed text features (images x classes x width) that are made in one go at evaluation."""


class PFedMoAPConfig(ContextConfig):
    """Options of the context, the mixture and the gate."""

    experts: int = Field(9, ge=1, description="how many other clients' prompts a client is sent (paper: 9)")
    local_weight: float = Field(0.5, ge=0, description="lambda: weight of the own prompt's logits beside the mixture's")
    gate_lr: float = Field(0.2, gt=0, description="learning rate of the gate, in units of lr (paper: 5, with SGD)")
    gate_scale: float = Field(10.0, gt=0, description="factor on the gate's attention scores")
    gate_init: Literal["identity", "xavier"] = Field("identity", description="the gate's untrained weights")


@METHODS.register("pfedmoap")
class PFedMoAP(ContextMethod):
    """The server sends each client the mean prompt and its nearest peers' prompts; a private gate mixes their texts.

    Shared: ``ctx`` ``(n_ctx, dim)``, merged; a client is also sent ``expert/<rank>`` of that shape, the last contexts
    of the ``experts`` other clients nearest to its own last one (Euclidean). Personal: ``local``, the context it
    trained last, and ``gate.*`` (see ``Gate``). With unit image features I, own text features T and peers' T_k
    (constant in a round, encoded once): ``logit = s cos(p(I), gate(p(I), p([T, T_1 ..]))) + lambda s cos(I, T)``,
    p thinning features out. Training starts from the mean context; the first time a client takes part there are no
    experts for it, and it tunes that context plainly. Somebody who never took part has the mean context alone.

    The paper has a "cosine-like" first term; here it is the cosine. Clients see each other's raw prompts.
    """

    name: ClassVar[str] = "pFedMoAP"
    paper: ClassVar[str] = "Luo et al. 2025, arXiv 2410.10114"
    trains: ClassVar[str] = "text context (n_ctx, dim); attention gate, 4 (128, 128) weights"
    keeps: ClassVar[str] = "images, gate, own context (but peers are sent it)"
    classes_apart: ClassVar[bool] = True
    Config = PFedMoAPConfig
    config: PFedMoAPConfig

    def __init__(self, config: PFedMoAPConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.gate = Gate(setup.backbone.embed_dim, config.gate_scale)

    def uploads(self, client: int, sent: PromptState) -> dict[str, Shape]:
        return shapes(sent, ["ctx"])

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return ExpertPool(aggregator, self.config.experts)

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        local = PromptState({"ctx": broadcast.shared["ctx"]})
        if not experts_in(broadcast.shared):
            return self.tuner.problem(local, data)
        classes, labels = training_classes(self.config.label_space, self.setup, data)
        images, peers = training_images(self.setup, data), self._peers(broadcast.shared, classes)
        noise = torch_stream(self.setup.seed, "gate")
        gate = Gate.weights(personal) or self.gate.start(self.config.gate_init, noise)

        def texts(parameters: Parameters) -> list[PromptedText]:
            return [self.tuner.prompted(parameters["ctx"], classes)]

        def loss(
            parameters: Parameters, features: Sequence[Tensor], rows: Tensor, sample: ClassSample = EVERY_CLASS
        ) -> tuple[Tensor, Tensor]:
            text = F.normalize(features[0], dim=-1)
            logits = self._mixture_logits(parameters, images[rows], text, sample.of(peers, 1))
            return cross_entropy_on(labels, logits, rows, sample)

        return LocalObjective(
            PromptState({**local, **gate}), labels, loss, texts, dict.fromkeys(gate, self.config.gate_lr)
        )

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        gate = Gate.weights(trained) or Gate.weights(personal)
        return PromptState({"ctx": trained["ctx"]}), PromptState({LOCAL: trained["ctx"], **gate})

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        return personal_context(shared, personal)

    def image_logits(
        self, texts: Tensor, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split
    ) -> Tensor:
        """Return the scores of the own context, whose features are ``texts``, with the experts mixed in."""
        images = self.setup.features.images(split)
        weights = {name: tensor.to(images.device) for name, tensor in Gate.weights(personal).items()}
        if not weights or not experts_in(shared):
            return super().image_logits(texts, shared, personal, classes, split)
        images, peers = F.normalize(images, dim=-1), self._peers(shared, classes)
        parts = images.split(max(1, CHUNK // (len(classes) * self.gate.width)))
        return torch.cat([self._mixture_logits(weights, part, texts, peers) for part in parts])

    def _mixture_logits(self, weights: Parameters, images: Tensor, local: Tensor, peers: Tensor) -> Tensor:
        """Return logits ``(batch, classes)`` of the mixture.

        Args:
            weights: The gate's.
            images: Unit features ``(batch, dim)``.
            local: Unit text features of the client's own context, ``(classes, dim)``.
            peers: Those of the experts, ``(experts, classes, dim)``.
        """
        queries = self.gate.thinned(images)
        texts = self.gate.mixed(weights, queries, self.gate.thinned(torch.cat([local[None], peers])))
        cosines = F.cosine_similarity(queries[:, None], texts, dim=-1)
        return self.setup.backbone.logit_scale * (cosines + self.config.local_weight * images @ local.T)

    @torch.no_grad()
    def _peers(self, shared: PromptState, classes: Sequence[str]) -> Tensor:
        """Return unit text features ``(experts, classes, dim)`` of the contexts in the broadcast."""
        backbone = self.setup.backbone
        texts = [self.tuner.prompted(shared[name].to(backbone.device), classes) for name in experts_in(shared)]
        return F.normalize(torch.stack(backbone.encode_prompted_texts(texts)), dim=-1)


def experts_in(shared: PromptState) -> list[str]:
    """Return the names of the experts in a broadcast, the nearest first."""
    return [name for name in shared if name.startswith(EXPERT)]


class ExpertPool(AggregatorWrapper):
    """Aggregator that merges as ``inner`` does, and keeps each client's last context for its nearest neighbours.

    Server memory: ``pool/<client>`` ``(n_ctx, dim)``, and inner's own under ``inner/``. The last context of a client
    that skips a round stays in the pool.
    """

    def __init__(self, inner: Aggregator, experts: int) -> None:
        super().__init__(inner)
        self.experts = experts

    def init(self, shared: PromptState) -> PromptState:
        return _filed(self.inner.init(shared), {})

    def broadcast(self, shared: PromptState, server: PromptState, client: int | None) -> PromptState:
        memory, pool = _unfiled(server)
        prompt = self.inner.broadcast(shared, memory, client)
        if client is None or client not in pool:
            return prompt
        last = pool[client].double()
        distance = {peer: (ctx.double() - last).norm().item() for peer, ctx in pool.items() if peer != client}
        nearest = sorted(distance, key=lambda peer: (distance[peer], peer))[: self.experts]
        return PromptState({**prompt, **{f"{EXPERT}{rank:03d}": pool[peer] for rank, peer in enumerate(nearest)}})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        memory, pool = _unfiled(server)
        shared, memory = self.inner.apply(shared, updates, memory)
        return shared, _filed(memory, pool | {update.client: update.shared["ctx"] for update in updates})


def _filed(memory: PromptState, pool: dict[int, Tensor]) -> PromptState:
    """Join inner's memory and the pool of contexts to one state."""
    state = {f"{INNER}{name}": tensor for name, tensor in memory.items()}
    return PromptState({**state, **{f"{POOL}{client}": ctx for client, ctx in pool.items()}})


def _unfiled(server: PromptState) -> tuple[PromptState, dict[int, Tensor]]:
    """Split one state into inner's memory and the pool: the inverse of ``_filed``."""
    pool = {int(client): ctx for client, ctx in tensors_under(server, POOL).items()}
    return PromptState(tensors_under(server, INNER)), pool
