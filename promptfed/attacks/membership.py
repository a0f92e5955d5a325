"""Membership inference: whether an example was trained on, from a prompt or from one update.

A score is high for what is taken for a member. Figures are AUC and the true-positive rate at 1 % false positives
(Carlini et al. 2022, arXiv 2112.03570), over training examples (members) and test examples of the same classes that
nobody trained on (non-members).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.errors import ConfigError
from promptfed.intervals import Z, wilson_interval
from promptfed.local_training import GradientTraining
from promptfed.method import Method
from promptfed.prompt_state import PromptState
from promptfed.types import Broadcast, ClientData, ClientPrompt, FederatedTask, Split, Update

LOW_RATE = 0.01
"""The false-positive rate at which true positives are counted."""
STEP = 0.05
"""The update score differentiates the loss along so large a part of the change."""


Training = Callable[[Broadcast, ClientData, PromptState], tuple[Update, PromptState]]
"""How a client makes its update, from what it is sent and what it keeps."""


@dataclass(frozen=True)
class Separation:
    """How well scores tell members from non-members.

    Attributes:
        members: Members.
        others: Non-members.
        auc: Probability that a member scores above a non-member, ties counting half; 0.5 is guessing.
        auc_interval: Its 95 % interval (Hanley and McNeil 1982).
        tpr: Share of members above the score that 1 % of the non-members exceed at most; 0.01 is guessing.
        tpr_interval: Its 95 % interval (Wilson), for that score as given.
    """

    members: int
    others: int
    auc: float
    auc_interval: tuple[float, float]
    tpr: float
    tpr_interval: tuple[float, float]

    @classmethod
    def of(cls, members: Tensor, others: Tensor) -> Separation:
        """Return the separation of the scores ``(n,)`` of both. Raises ConfigError if one is empty."""
        n, m = len(members), len(others)
        if not n or not m:
            raise ConfigError("membership needs training examples, and test examples of the same classes")
        both = torch.cat([members, others]).double()
        _, places, counts = both.unique(return_inverse=True, return_counts=True)
        ranks = (counts.cumsum(0) - (counts - 1) / 2)[places]  # of ties, the rank in the middle
        auc = float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
        allowed = math.floor(LOW_RATE * m)
        threshold = others.double().sort(descending=True).values[allowed]
        tpr = float((members.double() > threshold).double().mean())
        return cls(n, m, auc, auc_interval(auc, n, m), tpr, wilson_interval(tpr, n))

    def recorded(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**vars(self), "auc_interval": list(self.auc_interval), "tpr_interval": list(self.tpr_interval)}


def auc_interval(auc: float, members: int, others: int) -> tuple[float, float]:
    """Return Hanley and McNeil's 95 % interval of an area under the curve, cut to 0..1."""
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (members - 1) * (first - auc**2) + (others - 1) * (second - auc**2)
    half = Z * math.sqrt(max(0.0, variance) / (members * others))
    return max(0.0, auc - half), min(1.0, auc + half)


def losses(method: Method, prompt: ClientPrompt, task: FederatedTask, split: Split) -> Tensor:
    """Return the cross-entropy ``(n,)`` of each example of ``split`` among all base classes."""
    if not len(split):
        return torch.zeros(0)
    logits = method.client_logits(prompt, task.base_classes, split).float().cpu()
    return F.cross_entropy(logits, split.labels, reduction="none")


def prompt_membership(
    method: Method, prompts: Mapping[int, ClientPrompt], start: ClientPrompt, task: FederatedTask
) -> dict[str, Any]:
    """Tell members by a low loss under what each client deploys (Yeom et al. 2018).

    Args:
        method: The method of the run.
        prompts: Client -> what it deploys.
        start: What all had before training. It has seen nobody, so its figures say how far members and non-members
            differ by themselves.
        task: The data.

    Returns:
        ``trained`` and ``start``: the separation of all clients' examples together.
    """
    scores: dict[str, tuple[list[Tensor], list[Tensor]]] = {"trained": ([], []), "start": ([], [])}
    for data in task.clients:
        others = of_classes(task.base_test, data.classes)
        for name, prompt in (("trained", prompts[data.client]), ("start", start)):
            scores[name][0].append(-losses(method, prompt, task, data.train))
            scores[name][1].append(-losses(method, prompt, task, others))
    return {name: Separation.of(torch.cat(a), torch.cat(b)).recorded() for name, (a, b) in scores.items()}


def update_membership(
    method: Method,
    broadcasts: Mapping[int, PromptState],
    personal: Mapping[int, PromptState],
    task: FederatedTask,
    train: Training | None = None,
) -> dict[str, Any]:
    """Tell members from one update, as a curious server can: ``<D_i, -grad l(x)>`` at the prompt that it sent.

    Each client trains one round as the run does, and its change is compared with every example's gradient.

    Args:
        method: The method of the run, which trains by gradients.
        broadcasts: Client -> what it is sent.
        personal: Client -> what it keeps.
        task: The data.
        train: How a client trains; by default as the method does.

    Returns:
        ``trained``: the separation of all clients' examples together. ``start``: the same by the change of the next
        client, which has not seen them: how far members and non-members differ by themselves.

    Raises:
        ConfigError: The method has no gradients.
    """
    if not isinstance(method, GradientTraining):
        raise ConfigError(f"the update score needs the gradients of a loss, and {method.name} trains without")
    holders = [data for data in task.clients if len(data.train)]
    sent = {data.client: Broadcast(1, broadcasts[data.client]) for data in holders}
    changes = []
    for data in holders:
        update, _ = (train or method.train)(sent[data.client], data, personal[data.client])
        shared = sent[data.client].shared
        changes.append(PromptState({n: t - shared[n] for n, t in update.shared.items() if n in shared}))
    result = {}
    for name, shift in (("trained", 0), ("start", 1)):
        members, others = [], []
        for place, data in enumerate(holders):
            change = changes[(place + shift) % len(changes)]
            unseen = replace(data, train=of_classes(task.base_test, data.classes))
            given = sent[data.client], personal[data.client]
            members.append(update_scores(method, *given, data, change))
            others.append(update_scores(method, *given, unseen, change))
        result[name] = Separation.of(torch.cat(members), torch.cat(others)).recorded()
    return result


def update_scores(
    method: GradientTraining, sent: Broadcast, personal: PromptState, data: ClientData, change: PromptState
) -> Tensor:
    """Return ``<D, -grad l(x)> / |D|`` of each training example of ``data``: how much a step along D lowers its loss.

    It is the central difference of the loss along ``change``, so nothing is backpropagated for every example.
    """
    length = max(change.norm(), 1e-12)
    ahead, behind = (_row_losses(method, sent, personal, data, change, s) for s in (STEP, -STEP))
    return (behind - ahead) / (2 * STEP * length)


@torch.no_grad()
def _row_losses(
    method: GradientTraining,
    sent: Broadcast,
    personal: PromptState,
    data: ClientData,
    change: PromptState,
    step: float,
) -> Tensor:
    """Return the method's loss ``(n,)`` of each example, at the prompt that lies ``step`` changes ahead."""
    if not len(data.train):
        return torch.zeros(0)
    problem = method.problem(sent, data, personal)
    device = method.setup.model.device
    moved = {n: t + step * change[n] if n in change else t for n, t in problem.start.items()}
    parameters = {name: tensor.to(device) for name, tensor in moved.items()}
    texts = problem.texts(parameters)
    features = method.setup.backbone.encode_prompted_texts(texts) if texts else []
    rows = range(len(data.train))
    return torch.stack(
        [problem.loss(parameters, features, torch.tensor([row], device=device))[0].double().cpu() for row in rows]
    )


def of_classes(split: Split, classes: tuple[int, ...]) -> Split:
    """Return the examples of ``split`` that are of ``classes``."""
    rows = torch.isin(split.labels, torch.tensor(classes)).nonzero()[:, 0]
    return Split(tuple(split.items[row] for row in rows.tolist()), split.labels[rows])
