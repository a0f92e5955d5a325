"""What one update says of a client's data: how many examples of which class, and what its one example looks like.

Both look at the text features that a prompt gives the class names. On cached image features an example x of class y
moves them by ``s (onehot(y) - softmax(s T x)) x``: its own class towards it, and the others away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.attacks.membership import Training
from promptfed.errors import ConfigError
from promptfed.intervals import t_quantile
from promptfed.method import FeatureMethod, Method
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream
from promptfed.types import Broadcast, FederatedTask, Split

CHUNK = 64
"""Rows of the derivative that are taken through the text tower at a time."""
GUESSES, STEPS, RATE = 4, 300, 0.05
"""Starts of the search for an example of each class, its steps, and their length."""


def label_inference(
    method: Method,
    broadcasts: Mapping[int, PromptState],
    personal: Mapping[int, PromptState],
    task: FederatedTask,
    train: Training | None = None,
) -> dict[str, Any]:
    """Rank the classes of each client by what its update does to their text features.

    The score of class c is ``<T_c(theta + D) - T_c(theta), mean x>``, with the mean over test images: a server has no
    client's. The figure is Spearman's correlation with the client's true counts, which are zero for absent classes.

    Args:
        method: The method of the run, which predicts by text features.
        broadcasts: Client -> what it is sent.
        personal: Client -> what it keeps.
        task: The data.
        train: How a client trains; by default as the method does.

    Returns:
        ``spearman``: the mean over clients, with its 95 % interval and each client's; ``found``: the mean share of a
        client's classes among as many that score highest; ``found_by_chance``: of a guess.

    Raises:
        ConfigError: The method has no text features.
    """
    if not isinstance(method, FeatureMethod):
        raise ConfigError(f"labels are read from text features of class names, and {method.name} has none")
    classes = task.base_classes
    public = F.normalize(method.setup.features.images(task.base_test), dim=-1).mean(0)
    each, found, chance = {}, [], []
    for data in task.clients:
        counts = torch.tensor(data.train.counts(len(classes)), dtype=torch.float64)
        if not counts.sum() or counts.unique().numel() < 2:
            continue  # nothing to rank
        sent = broadcasts[data.client]
        update, _ = (train or method.train)(Broadcast(1, sent), data, personal[data.client])
        after = PromptState({**sent, **update.shared})
        before_features, after_features = (
            method.class_features(shared, personal[data.client], classes) for shared in (sent, after)
        )
        scores = ((after_features - before_features) @ public).double().cpu()
        each[data.client] = spearman(scores, counts)
        held = int((counts > 0).sum())
        found.append(float((counts[scores.topk(held).indices] > 0).double().mean()))
        chance.append(held / len(classes))
    if not each:
        raise ConfigError("no client holds more of one class than of another, so there is nothing to rank")
    values = list(each.values())
    return {
        "spearman": fmean(values),
        "spearman_interval": list(t_interval(values)),
        "clients": each,
        "found": fmean(found),
        "found_by_chance": fmean(chance),
    }


def feature_inversion(
    method: Method, broadcasts: Mapping[int, PromptState], task: FederatedTask, most: int = 4
) -> dict[str, Any]:
    """Rebuild the features of a single training example from the gradient that a client of one example would send.

    ``min over x, |x| = 1, and y of 1 - cos(J^T c(x, y), g)`` by Adam, from a few starts for each class; the class with
    the smallest distance is the guess. ``J`` is the derivative of the text features by the prompt.

    Args:
        method: PromptFL, or another method of one shared text context.
        broadcasts: Client -> what it is sent.
        task: The data; each client's first example is looked for.
        most: Clients that are looked at, in order.

    Returns:
        ``cosine``: of the rebuilt features and the true ones, the mean over clients; ``cosine_by_chance``: of another
        test image of the same class; ``labels``: share of labels that are right.
    """
    from promptfed.prompts.text_context import ContextMethod

    if not isinstance(method, ContextMethod):
        raise ConfigError(f"features are rebuilt from the gradient of one shared context, and {method.name} has others")
    cosines, chance, right = [], [], []
    store, scale = method.setup.features, method.setup.backbone.logit_scale
    tests = F.normalize(store.images(task.base_test), dim=-1)
    jacobians: dict[str, Tensor] = {}
    for data in [data for data in task.clients if len(data.train)][:most]:
        first = Split(data.train.items[:1], data.train.labels[:1])
        image, label = F.normalize(store.images(first), dim=-1)[0], int(first.labels[0])
        ctx = broadcasts[data.client]["ctx"].to(image.device, copy=True).requires_grad_()
        with torch.enable_grad():
            texts = method.setup.backbone.encode_prompted_texts([method.tuner.prompted(ctx, task.base_classes)])[0]
            features = F.normalize(texts, dim=-1)
            gradient = torch.autograd.grad(
                F.cross_entropy(scale * features @ image, torch.tensor(label)), ctx, retain_graph=True
            )[0]
            sent = broadcasts[data.client].sha256()
            if sent not in jacobians:
                jacobians[sent] = _jacobian(features, ctx)
            stream = torch_stream(method.setup.seed, "inversion", data.client)
            guess, guessed = _rebuilt(features.detach(), jacobians[sent], gradient, scale, stream)
        cosines.append(float(F.cosine_similarity(guess, image, dim=0)))
        right.append(float(guessed == label))
        alike = tests[task.base_test.labels == label]
        if len(alike):
            chance.append(float(F.cosine_similarity(alike, image[None]).mean()))
    return {
        "cosine": fmean(cosines),
        "cosine_interval": list(t_interval(cosines)),
        "cosine_by_chance": fmean(chance) if chance else None,
        "labels": fmean(right),
        "examples": len(cosines),
    }


def _rebuilt(
    units: Tensor, jacobian: Tensor, gradient: Tensor, scale: float, stream: torch.Generator
) -> tuple[Tensor, int]:
    """Return the features ``(dim,)`` and the class whose gradient looks most like ``gradient``.

    Args:
        units: The class names' unit text features ``(classes, dim)``.
        jacobian: Their derivative by the context, ``(classes * dim, numbers of the context)``.
        gradient: What the client sends.
        scale: Of the model's cosines.
        stream: Where starts come from.
    """
    goal, classes = gradient.flatten() / gradient.norm(), len(units)
    guesses = torch.randn(classes * GUESSES, units.shape[1], generator=stream).to(goal.device)
    labels = torch.arange(classes, device=goal.device).repeat_interleave(GUESSES)
    guesses.requires_grad_()
    optimizer = torch.optim.Adam([guesses], lr=RATE)
    distance = torch.zeros(0)
    for _ in range(STEPS):
        images = F.normalize(guesses, dim=-1)
        errors = (scale * images @ units.T).softmax(-1) - F.one_hot(labels, classes)
        pulls = (errors[:, :, None] * images[:, None, :]).flatten(1) @ jacobian
        distance = 1 - F.normalize(pulls, dim=-1) @ goal
        optimizer.zero_grad()
        distance.sum().backward()
        optimizer.step()
    best = int(distance.argmin())
    return F.normalize(guesses[best].detach(), dim=0), int(labels[best])


def _jacobian(features: Tensor, ctx: Tensor) -> Tensor:
    """Return the derivative of all text features by the context, ``(classes * dim, numbers of ctx)``."""
    flat = features.flatten()
    chunks = torch.eye(len(flat), device=flat.device).split(CHUNK)
    parts = [torch.autograd.grad(flat, ctx, c, retain_graph=True, is_grads_batched=True)[0] for c in chunks]
    return torch.cat(parts).flatten(1)


def spearman(first: Tensor, second: Tensor) -> float:
    """Return Spearman's rank correlation, tied values having the rank in the middle; 0 if one is constant."""
    ranks = torch.stack([_ranks(first), _ranks(second)])
    ranks = ranks - ranks.mean(1, keepdim=True)
    lengths = ranks.norm(dim=1)
    return float((ranks[0] @ ranks[1]) / lengths.prod()) if lengths.prod() else 0.0


def _ranks(values: Tensor) -> Tensor:
    _, places, counts = values.double().unique(return_inverse=True, return_counts=True)
    middles: Tensor = counts.cumsum(0) - (counts - 1) / 2
    return middles[places].double()


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return Student's 95 % interval of the mean of ``values`` in -1..1; all of it for a single one."""
    if len(values) < 2:
        return -1.0, 1.0
    middle, spread = fmean(values), torch.tensor(values, dtype=torch.float64).std().item()
    half = t_quantile(len(values) - 1) * spread / math.sqrt(len(values))
    return max(-1.0, middle - half), min(1.0, middle + half)
