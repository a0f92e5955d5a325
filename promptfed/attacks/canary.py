"""Canaries: random texts planted at clients, and looked for in what a method writes (Carlini et al. 2019).

As many more are drawn in the same way and planted nowhere. A planted one that comes nearer to the written texts than
these references do has left a trace (Meeus et al. 2025, arXiv 2502.14921, on synthetic texts).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from promptfed.attacks.membership import LOW_RATE, Separation
from promptfed.errors import ConfigError
from promptfed.examples.base import TextItem
from promptfed.intervals import exact_lower_bound
from promptfed.seeding import numpy_stream
from promptfed.types import ClientData, FederatedTask, Split


@dataclass(frozen=True)
class Canary:
    """A text that nobody else has. ``client`` holds it; None: a reference, which nobody holds."""

    text: str
    label: int
    client: int | None = None


def draw_canaries(
    words: Sequence[str], classes: int, clients: Sequence[int], planted: int, references: int, length: int, seed: int
) -> list[Canary]:
    """Draw texts of ``length`` words, each word as likely as another; the planted ones come first.

    Labels take turns among the classes; the clients that hold planted ones are drawn.

    Raises:
        ConfigError: There are no words to draw from.
    """
    if not words:
        raise ConfigError("canaries are drawn from whole words of the model's vocabulary, and it has none")
    stream, canaries = numpy_stream(seed, "canaries"), []
    for k in range(planted + references):
        text = " ".join(words[int(place)] for place in stream.integers(len(words), size=length))
        holder = int(stream.choice(list(clients))) if k < planted else None
        canaries.append(Canary(text, k % classes, holder))
    return canaries


def plant(task: FederatedTask, canaries: Sequence[Canary], repeat: int = 1) -> FederatedTask:
    """Return ``task`` with each planted canary ``repeat`` times among its client's training texts."""
    by_client: dict[int, list[Canary]] = {}
    for canary in canaries:
        if canary.client is not None:
            by_client.setdefault(canary.client, []).extend([canary] * repeat)
    clients = tuple(_with(data, by_client.get(data.client, ())) for data in task.clients)
    return replace(task, clients=clients)


def _with(data: ClientData, canaries: Sequence[Canary]) -> ClientData:
    if not canaries:
        return data
    items = (*data.train.items, *(TextItem(canary.text) for canary in canaries))
    labels = torch.cat([data.train.labels, torch.tensor([canary.label for canary in canaries], dtype=torch.int64)])
    return replace(data, classes=tuple(sorted(set(labels.tolist()))), train=Split(items, labels))


def exposures(planted: Tensor, references: Tensor) -> list[float]:
    """Return the exposure ``log2((n + 1) / rank)`` of each planted canary among itself and ``n`` references.

    The rank is 1 for the highest score; a reference with the same score counts half.
    """
    return [math.log2((len(references) + 1) / rank) for rank in _ranks(planted, references)]


def _ranks(planted: Tensor, references: Tensor) -> list[float]:
    return [1 + float((references > score).sum()) + float((references == score).sum()) / 2 for score in planted]


def chance_exposure(references: int) -> float:
    """Return the mean exposure of a canary whose rank among ``references`` others is anything, each as likely."""
    return fmean(math.log2((references + 1) / rank) for rank in range(1, references + 2))


def canary_figures(planted: Tensor, references: Tensor) -> dict[str, Any]:
    """Return what scores ``(planted,)`` and ``(references,)`` say of canaries: exposures, ranks and separation."""
    each, n = exposures(planted, references), len(references)
    return {
        "exposure": fmean(each),
        "exposure_highest": max(each),
        "exposure_by_chance": chance_exposure(n),
        "exposure_possible": math.log2(n + 1),
        "median_rank": median(_ranks(planted, references)),
        **Separation.of(planted, references).recorded(),
    }


def shown_epsilon(planted: Tensor, references: Tensor, delta: float = 0.0) -> dict[str, float]:
    """Return the least epsilon with which these scores go together, and the most that so few could show.

    Half of the references set a threshold that 1 % of them exceed at most, the others estimate the false positives of
    it. (epsilon, delta) allows true positives up to ``e^epsilon FPR + delta`` (Kairouz et al. 2015), so epsilon is at
    least ``ln((TPR - delta) / FPR)``, here with Clopper and Pearson's bounds of both rates, which hold together in 95 %
    of the cases. Each canary counts as a trial of its own, though all share one run.

    A canary is a text more in a client that stays. An account of whole clients that come or go, with (epsilon, delta),
    allows up to twice epsilon for that, with delta ``(1 + e^epsilon)`` times as large: the client goes, and comes back.
    """
    half = len(references) // 2
    limits, others = references[:half], references[half:]
    threshold = limits.sort(descending=True).values[math.floor(LOW_RATE * half)]
    false, n = int((others > threshold).sum()), len(others)
    true, m = int((planted > threshold).sum()), len(planted)
    return {"epsilon_shown": _least(true, m, false, n, delta), "epsilon_possible": _least(m, m, 0, n, delta)}


def _least(true: int, planted: int, false: int, others: int, delta: float) -> float:
    positive = exact_lower_bound(true, planted) - delta
    return max(0.0, math.log(positive / (1 - exact_lower_bound(others - false, others)))) if positive > 0 else 0.0


def allowed_rate(epsilon: float, delta: float) -> float:
    """Return the most true positives that (epsilon, delta) allows at 1 % false positives: ``e^eps .01 + delta``."""
    return min(1.0, math.exp(min(epsilon, 100.0)) * LOW_RATE + delta)
