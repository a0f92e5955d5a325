"""A prompt of each client's own, held near the others' by their reliability (Zhu et al. 2024, arXiv 2402.09677)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.aggregators.base import PEER
from promptfed.aggregators.reliability import PEER_SCORES, above_chance
from promptfed.class_sample import ClassSample
from promptfed.local_training import LocalObjective, Parameters
from promptfed.method import METHODS, Shape, TrainingJob, shapes
from promptfed.methods.promptfl import PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.prompts.personal_context import LOCAL, PersonalContextMethod
from promptfed.scores import predicted
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split, Update


class ReliableConfig(PromptFLConfig):
    """PromptFL's options, and the two terms of the loss. The aggregator ``reliability`` has those of the mixtures."""

    alpha: float = Field(1.0, ge=0, description="strength of 1 - cos(p_t, p_t^s), the distance to the others' mixture")
    beta: float = Field(0.0, ge=0, description="strength of |p_t|^2 / 2")
    start: float = Field(0.5, ge=0, le=1, description="share of the others' mixture in the prompt a round starts from")


@METHODS.register("reliable")
class Reliable(PersonalContextMethod):
    """Client t minimises ``CE(p_t) + alpha (1 - cos(p_t, p_t^s)) + beta / 2 ||p_t||^2``, p_t^s mixed for it.

    Shared: ``ctx`` ``(n_ctx, dim)``; client t is sent p_t^s, the mixture of the others' last contexts that the
    aggregator ``reliability`` makes. Personal: ``local`` of the same shape, its p_t, by which it predicts and which it
    sends. Its update says how accurate p_t is on its validation examples. Under ``reliability=cross`` it is also sent
    two other clients' contexts, ``peer/K/ctx``, and sends ``peer_scores``, their accuracy there above that of a guess.
    A client that never took part has the mean of all by reliability.

    Different from the paper: both prompts go into a transformer of the client's own there, by an attention that is not
    described in what we have read. Here a round starts from ``(1 - start) p_t + start p_t^s``, and the client predicts
    with what training makes of that. Its regulariser is not known to us; ours is a norm, and off.
    """

    name: ClassVar[str] = "reliable prompts"
    paper: ClassVar[str] = "Zhu et al. 2024, arXiv 2402.09677"
    aggregators: ClassVar[tuple[str, ...]] = ("reliability",)
    takes_sigmoid_loss: ClassVar[bool] = True
    scores_peers: ClassVar[bool] = True
    Config = ReliableConfig
    config: ReliableConfig

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        mixture = broadcast.shared["ctx"]
        start = torch.lerp(personal[LOCAL], mixture, self.config.start) if LOCAL in personal else mixture
        problem = self.tuner.problem(PromptState({"ctx": start}), data)
        target, (alpha, beta) = mixture.to(self.setup.backbone.device), (self.config.alpha, self.config.beta)

        def terms(parameters: Parameters, features: Sequence[Tensor], sample: ClassSample) -> Tensor:
            ctx = parameters["ctx"]
            distance = 1 - F.cosine_similarity(ctx.flatten(), target.flatten(), dim=0)
            return alpha * distance + beta / 2 * ctx.square().sum()

        return replace(problem, penalties=(*problem.penalties, terms)) if alpha or beta else problem

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        own = PromptState({name: tensor for name, tensor in sent.items() if not name.startswith(PEER)})
        peers = _peers(sent)
        return {**shapes(own), **({PEER_SCORES: (len(peers),)} if peers else {})}

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        return trained, PromptState({LOCAL: trained["ctx"]})

    def train_many(self, jobs: Sequence[TrainingJob]) -> list[tuple[Update, PromptState]]:
        results = []
        for (broadcast, data, _), (update, personal) in zip(jobs, super().train_many(jobs), strict=True):
            split = data.val if len(data.val) else data.train
            accuracy = self.accuracy(update.shared["ctx"], split) if len(data.val) else update.accuracy
            sent, guess = dict(update.shared), chance(split)
            if peers := _peers(broadcast.shared):
                scores = [above_chance(self.accuracy(ctx, split), guess) for ctx in peers]
                sent[PEER_SCORES] = torch.tensor(scores)
            results.append((replace(update, shared=PromptState(sent), accuracy=accuracy), personal))
        return results

    def accuracy(self, ctx: Tensor, split: Split) -> float:
        """Return the accuracy of a context on a split, among all classes."""
        scores = self.logits(PromptState({"ctx": ctx}), NO_PROMPT, self.setup.classes, split)
        return split.is_right(predicted(scores).cpu()).double().mean().item()


def chance(split: Split) -> float:
    """Return the accuracy of the label that is most frequent in ``split``, at most 0.99."""
    return min(0.99, int(split.labels.bincount().max()) / len(split)) if len(split) else 0.0


def _peers(sent: PromptState) -> list[Tensor]:
    """Return the contexts of others that a client was sent."""
    return [tensor for name, tensor in sent.items() if name.startswith(PEER)]
