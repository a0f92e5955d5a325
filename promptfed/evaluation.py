"""The evaluation protocol: local, base and new accuracy and their harmonic mean (FedTPG, Qiu et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, harmonic_mean, pstdev
from typing import Literal

import torch

from promptfed.methods.base import Method
from promptfed.prompts import PromptState
from promptfed.types import ClientData, FederatedTask, FederationState, Figures, Split


@dataclass(frozen=True)
class Evaluation:
    """``figures``, and the local accuracy of each client that holds test images."""

    figures: Figures
    local: dict[int, float]


def accuracy(
    method: Method,
    shared: PromptState,
    personal: PromptState,
    classes: Sequence[str],
    split: Split,
    among: Sequence[int] | None = None,
) -> float:
    """Fraction of ``split`` (labels index ``classes``) classified right, the choice being ``among`` some or all."""
    candidates = torch.tensor(range(len(classes)) if among is None else among)
    names = [classes[i] for i in candidates.tolist()]
    guesses = method.logits(shared, personal, names, split).argmax(-1).cpu()
    return (candidates[guesses] == split.labels).double().mean().item()


def local_accuracy(
    method: Method, state: FederationState, task: FederatedTask, data: ClientData, part: Literal["val", "test"]
) -> float:
    """One client's accuracy on its own images among its own classes, with its own prompt."""
    split = data.val if part == "val" else data.test
    return accuracy(method, state.shared, state.personal[data.client], task.base_classes, split, data.classes)


def mean_local_accuracy(
    method: Method, state: FederationState, task: FederatedTask, part: Literal["val", "test"]
) -> float:
    """Mean over clients that hold images of that part; NaN if none does."""
    judged = [data for data in task.clients if len(data.val if part == "val" else data.test)]
    return fmean(local_accuracy(method, state, task, data, part) for data in judged) if judged else float("nan")


def evaluate(method: Method, state: FederationState, task: FederatedTask) -> Evaluation:
    """Test figures of a federation's prompts.

    local: each client on its own classes, mean over clients. base: all base classes together. new: classes no client
    ever saw. With personal prompts, base and new are means over the clients' prompts; without, they are one prompt's.
    """
    local = {d.client: local_accuracy(method, state, task, d, "test") for d in task.clients if len(d.test)}
    personal = [p for p in state.personal.values() if len(p)] or [PromptState()]

    def mean_over_prompts(classes: Sequence[str], split: Split) -> float:
        return fmean(accuracy(method, state.shared, own, classes, split) for own in personal)

    base = mean_over_prompts(task.base_classes, task.base_test)
    new = mean_over_prompts(task.new_classes, task.new_test) if len(task.new_test) else None
    parts = [fmean(local.values()), base] + ([] if new is None else [new])
    figures = Figures(
        name=method.name,
        local=parts[0],
        local_std=pstdev(local.values()),
        base=base,
        new=new,
        hm=None if new is None else harmonic_mean(parts),
    )
    return Evaluation(figures, local)
