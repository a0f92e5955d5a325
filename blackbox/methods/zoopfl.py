"""ZooPFL: inputs are edited before a black box, its scores re-mapped after it (Lu et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.blackbox.base import ClientOracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.soft.input_edit import edit_for
from promptfed.blackbox.soft.input_features import LocalView
from promptfed.blackbox.soft.per_example import PerExampleMethod
from promptfed.blackbox.soft.prompt_generator import PromptGenerator, flat, shaped
from promptfed.blackbox.soft.spsa_steps import DescentConfig, descent
from promptfed.examples.base import Item
from promptfed.method import METHODS, MethodConfig, Shape, shapes
from promptfed.prompt_state import PromptState
from promptfed.scores import is_answered, predicted
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData


class ZooPFLConfig(DescentConfig):
    """ZooPFL's options: the auto-encoder, what is trained how, and the re-mapping of scores."""

    latent: int = Field(8, ge=1, le=4096, description="numbers that the encoder keeps of an example")
    embedding: int = Field(4, ge=1, description="numbers of a client's embedding, which conditions the decoder")
    hidden: int = Field(16, ge=1, description="width of the decoder")
    train_encoder: bool = Field(False, description="train the encoder by queries too, after its pre-training")
    pretrain_steps: int = Field(100, ge=0, description="gradient steps of the encoder on the client's own examples")
    pretrain_lr: float = Field(0.3, gt=0, description="step size of these")
    remap_lr: float = Field(0.5, ge=0, description="step size of the re-mapping, against the size of scores; 0: none")
    remap_steps: int = Field(10, ge=0, description="gradient steps of the re-mapping after each answer of the oracle")
    remap_decay: float = Field(0.1, ge=0, description="share of its way from leaving scores as they are that it loses")


@METHODS.register("zoopfl")
class ZooPFL(PerExampleMethod):
    """Every example is edited by an auto-encoder before the black box; the client's own linear map re-maps the scores.

    Shared: ``encoder`` ``(latent, view)`` and the decoder's ``W1`` ``(hidden, latent + embedding)``, ``b1``, ``W2``,
    ``b2``. Personal: ``embedding`` ``(embedding,)``, and ``weight`` ``(classes, classes)`` and ``bias`` ``(classes,)``
    of the re-mapping. A client that never took part has the zero embedding and scores as they are.

    1. Before its first steps by queries, the encoder learns to reconstruct the client's own examples (with its
       transpose as decoder, so towards their principal components): gradients, no queries.
    2. Decoder and embedding, with ``train_encoder`` the encoder too, take SPSA-GC steps on the loss of re-mapped
       scores.
    3. After each answer the re-mapping takes plain gradient steps on all scores of the round: no queries.

    Different from the paper, as far as it is known: the decoder adds an edit that starts at nothing, where the paper
    puts the reconstruction itself in the place of the input; a text is edited by soft vectors before it; random
    directions, not coordinates; the re-mapping compares the client's own classes only, each with the same weight, and
    so learns how to tell them apart and not how often they occur. Layouts and values are inferred.
    """

    name: ClassVar[str] = "ZooPFL"
    paper: ClassVar[str] = "Lu et al. 2023, arXiv 2310.05143"
    trains: ClassVar[str] = "auto-encoder of inputs; client embedding; re-mapping (classes, classes)"
    keeps: ClassVar[str] = "texts or images, client embedding, re-mapping"
    Config: ClassVar[type[MethodConfig]] = ZooPFLConfig
    paced: ClassVar[bool] = True
    config: ZooPFLConfig

    def __init__(self, config: ZooPFLConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.edit = edit_for(config, self.oracle, setup.seed)
        self.view = LocalView(self.oracle.backend, images="pixel prompts" in self.oracle.abilities)
        self.decoder = PromptGenerator(config.latent + config.embedding, config.hidden, self.edit.size)
        draw = torch_stream(setup.seed, "zoopfl", "encoder")
        rows = torch.linalg.qr(torch.randn(self.view.size, config.latent, generator=draw)).Q.T
        self.raw_encoder = rows.contiguous()

    def init_shared(self) -> PromptState:
        return PromptState({"encoder": self.raw_encoder, **self.decoder.start(self.setup.seed, "zoopfl")})

    def init_personal(self, client: int) -> PromptState:
        classes = len(self.setup.classes)
        return PromptState(
            {
                "embedding": torch.zeros(self.config.embedding),
                "weight": torch.eye(classes),
                "bias": torch.zeros(classes),
            }
        )

    def uploads(self, client: int, sent: PromptState) -> dict[str, Shape]:
        """Return the encoder's shapes only while it changes."""
        encoder_moves = self.config.train_encoder or self._is_raw(sent)
        return shapes(sent, [name for name in sent if encoder_moves or name != "encoder"])

    def _is_raw(self, shared: PromptState) -> bool:
        return torch.equal(shared["encoder"], self.raw_encoder)

    # --------------------------------------------------------------------------------------------- training

    def step_queries(self, data: ClientData) -> int:
        return 2 * self.config.probes * self.batch_of(data)

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        shared, config = broadcast.shared, self.config
        if self._is_raw(shared):
            features = self.view(data.train.items)
            encoder = pretrained(shared["encoder"], features, config.pretrain_steps, config.pretrain_lr)
            shared = PromptState({**shared, "encoder": encoder})
        weights = {name: t for name, t in shared.items() if config.train_encoder or name != "encoder"}
        weights["embedding"] = personal["embedding"]
        optimizer = descent(config, flat(weights), desk, self.setup.rounds)
        remap, answers = personal, []
        while desk.affords(2 * config.probes):
            points, rows = optimizer.ask(), desk.batch()
            items = [data.train.items[i] for i in rows.tolist()]
            states = [PromptState({**shared, **shaped(point, weights)}) for point in points]
            scores, labels = desk.scores([self.candidate_on(state, state, items) for state in states], rows)
            optimizer.tell(points, self._losses(desk, scores, labels, remap))
            rows_of_all, repeated = scores.flatten(0, 1), labels.repeat(len(scores))
            has_answer = is_answered(rows_of_all)
            answers.append((rows_of_all[has_answer], repeated[has_answer]))
            remap = self.remapped(remap, torch.cat([s for s, _ in answers]), torch.cat([n for _, n in answers]), data)
        last = shaped(optimizer.best(), weights)
        upload = PromptState({**shared, **{name: t for name, t in last.items() if name in shared}})
        new_personal = PromptState({**remap, "embedding": last["embedding"]})
        return PromptState({name: upload[name] for name in self.uploads(data.client, broadcast.shared)}), new_personal

    def _losses(self, desk: ClientOracle, scores: Tensor, labels: Tensor, personal: PromptState) -> list[float]:
        """Return the mean loss of each of ``scores`` ``(prompts, rows, classes)`` after the re-mapping."""
        mapped = [self.adjusted(rows, personal) for rows in scores]
        losses = [self.sample_losses(rows, labels).double().mean().item() for rows in mapped]
        best = min(range(len(losses)), key=losses.__getitem__)
        desk.loss, desk.accuracy = losses[best], (predicted(mapped[best]) == labels).double().mean().item()
        return losses

    def remapped(self, personal: PromptState, scores: Tensor, labels: Tensor, data: ClientData) -> PromptState:
        """Return ``personal`` after gradient steps of the re-mapping on existing ``scores`` ``(n, classes)``."""
        weight, bias = personal["weight"], personal["bias"]
        inputs, classes = centred(scores), torch.tensor(data.classes)
        pace = self.config.remap_lr / inputs.square().sum(1).mean().clamp(min=1e-6)
        pull = self.config.remap_lr * self.config.remap_decay
        for _ in range(self.config.remap_steps if self.config.remap_lr and len(labels) else 0):
            by_weight, by_bias = remap_gradient(weight, bias, inputs, labels, classes)
            weight = weight - pace * by_weight - pull * (weight - torch.eye(len(bias)))
            bias = bias - pace * by_bias - pull * bias
        return PromptState({**personal, "weight": weight, "bias": bias})

    # ------------------------------------------------------------------------------------------- prediction

    def candidate_on(self, shared: PromptState, personal: PromptState, items: Sequence[Item]) -> Candidate:
        return self._edited(shared, personal, self.view(items))

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        """Return the edit of a blank example."""
        edit = self._edited(shared, personal, torch.zeros(1, self.view.size))
        return Candidate(
            edit.text,
            soft=None if edit.soft is None else edit.soft[0],
            pixels=None if edit.pixels is None else edit.pixels[0],
        )

    def _edited(self, shared: PromptState, personal: PromptState, features: Tensor) -> Candidate:
        embedding = personal["embedding"] if len(personal) else torch.zeros(self.config.embedding)
        latent = F.normalize(features @ shared["encoder"].T, dim=1) * math.sqrt(self.config.latent)
        return self.edit.candidate(self.decoder(shared, torch.cat([latent, embedding.expand(len(latent), -1)], 1)))

    def adjusted(self, scores: Tensor, personal: PromptState) -> Tensor:
        return centred(scores) @ personal["weight"].T + personal["bias"] if len(personal) else scores

    def blend(self, shared: PromptState, personal: PromptState, alpha: float) -> PromptState:
        """Interpolate from the zero embedding and unchanged scores to the client's own."""
        return self.init_personal(0).interpolate(personal, alpha)


def centred(scores: Tensor) -> Tensor:
    """Subtract each row's mean, which decides nothing, from ``scores`` ``(n, classes)``."""
    return scores - scores.mean(1, keepdim=True)


def pretrained(encoder: Tensor, features: Tensor, steps: int, lr: float) -> Tensor:
    """Take gradient steps on ``mean |f - E^T E f|^2`` from E ``(latent, view)``; ``features`` ``(n, view)``."""
    for _ in range(steps):
        latent = features @ encoder.T
        residual = features - latent @ encoder
        slope = -2 * (latent.T @ residual + (residual @ encoder.T).T @ features) / len(features)
        encoder = encoder - lr * slope
    return encoder


def remap_gradient(
    weight: Tensor, bias: Tensor, inputs: Tensor, labels: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients ``(classes, classes)`` and ``(classes,)`` of the re-mapping's loss.

    The loss is the cross-entropy of ``inputs @ weight^T + bias`` with the choice among the client's own classes, mean
    over labels of the mean over their rows. The gradient is ``(p - onehot)^T inputs``, weighted, in the rows of own
    classes, and zero in all others.
    """
    mapped = inputs @ weight.T + bias
    error = torch.zeros_like(mapped)
    error[:, classes] = mapped[:, classes].softmax(1)
    error[torch.arange(len(labels)), labels] -= 1
    _, label_index, counts = labels.unique(return_inverse=True, return_counts=True)
    error = error / (counts[label_index] * len(counts))[:, None]
    return error.T @ inputs, error.sum(0)
