"""The evaluation protocol: local, base and new accuracy and their harmonic mean (FedTPG, Qiu et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, harmonic_mean, pstdev
from typing import Literal

import torch

from promptfed.methods.base import Method
from promptfed.types import ClientData, ClientPrompt, FederatedTask, Figures, Split


@dataclass(frozen=True)
class Evaluation:
    """``figures``, and the local accuracy of each client that holds test images."""

    figures: Figures
    local: dict[int, float]


def accuracy(
    method: Method,
    prompt: ClientPrompt,
    classes: Sequence[str],
    split: Split,
    among: Sequence[int] | None = None,
) -> float:
    """Fraction of ``split`` (labels index ``classes``) classified right, the choice being ``among`` some or all."""
    candidates = torch.tensor(range(len(classes)) if among is None else among)
    names = [classes[i] for i in candidates.tolist()]
    guesses = method.client_logits(prompt, names, split).argmax(-1).cpu()
    return (candidates[guesses] == split.labels).double().mean().item()


def local_accuracy(
    method: Method, prompt: ClientPrompt, task: FederatedTask, data: ClientData, part: Literal["val", "test"]
) -> float:
    """One client's accuracy on its own images among its own classes, with its own prompt."""
    split = data.val if part == "val" else data.test
    return accuracy(method, prompt, task.base_classes, split, data.classes)


def mean_local_accuracy(
    method: Method, prompts: Mapping[int, ClientPrompt], task: FederatedTask, part: Literal["val", "test"]
) -> float:
    """Mean over clients that hold images of that part; NaN if none does."""
    judged = [data for data in task.clients if len(data.val if part == "val" else data.test)]
    if not judged:
        return float("nan")
    return fmean(local_accuracy(method, prompts[data.client], task, data, part) for data in judged)


def evaluate(method: Method, prompts: Mapping[int, ClientPrompt], task: FederatedTask) -> Evaluation:
    """Test figures of what each client deploys.

    local: each client on its own classes, mean over clients. base: all base classes together. new: classes no client
    ever saw. domains: base classes in each domain. Where clients deploy different prompts, base, new and domains are
    means over their prompts; where all deploy the same, they are that one's.
    """
    local = {d.client: local_accuracy(method, prompts[d.client], task, d, "test") for d in task.clients if len(d.test)}
    different = distinct(prompts)

    def mean_over_prompts(classes: Sequence[str], split: Split) -> float:
        return fmean(accuracy(method, prompt, classes, split) for prompt in different)

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
        domains={name: mean_over_prompts(task.base_classes, split) for name, split in task.domain_tests.items()},
    )
    return Evaluation(figures, local)


def distinct(prompts: Mapping[int, ClientPrompt]) -> list[ClientPrompt]:
    """The prompts without repetition of the very same one; all of them as soon as any is personal."""
    found = list(prompts.values())
    alike = all(p.shared is found[0].shared and not len(p.personal) for p in found)
    return found[:1] if alike else found
