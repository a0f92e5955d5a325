"""Time a step of DP-SGD on a text context against a plain one, on the bundled CLIP or another backbone.

    python scripts/bench_dp.py                                # tiny: 20 classes, 32 examples; under a minute
    python scripts/bench_dp.py --backbone lit --classes 100

A step is one forward and backward pass for a batch, with its noise. Plain: the mean loss. Feature space: gradients of
single examples with respect to the text features are clipped, their noised sum goes back once. Parameter space: each
of them goes back. Naive: ``vmap(grad(loss))`` over the whole of it. The ways take turns; each is the best of
``--repeats`` on ``--threads`` threads, in processor time, which other programs disturb least. The ratio is to the plain
step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones import load_backbone
from promptfed.backbones.base import Backbone, PromptedText
from promptfed.cosines import cosine_logits
from promptfed.local_training import LocalObjective, Parameters
from promptfed.privacy.dpsgd import DPSGD, ClipSpace
from promptfed.privacy.example_gradients import ExampleGradients
from promptfed.privacy.secret_key import SecretKey
from promptfed.prompt_state import PromptState

WORDS = ("cat", "dog", "house", "pin cushion", "red car", "oak tree", "sailing boat", "sun", "moon", "cup of tea")
NAIVE_CHUNK = 8


class Model:
    """What a step asks of a setup: the backbone."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone


def objective_of(backbone: Backbone, classes: int, n_ctx: int, examples: int) -> LocalObjective:
    """Return CoOp's loss on random images."""
    draw = torch.Generator().manual_seed(0)
    names = [f"{WORDS[number % len(WORDS)]} {number}" for number in range(classes)]
    tokens = backbone.class_tokens(names, n_ctx)
    images = F.normalize(torch.randn(examples, backbone.embed_dim, generator=draw), dim=-1)
    labels = torch.randint(0, classes, (examples,), generator=draw)

    def loss(parameters: Parameters, features: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        logits = cosine_logits(images[rows], features[0], backbone.logit_scale)
        return F.cross_entropy(logits, labels[rows]), logits

    start = PromptState({"ctx": 0.02 * torch.randn(n_ctx, backbone.text_dim, generator=draw)})
    return LocalObjective(start, labels, loss, lambda parameters: [PromptedText(parameters["ctx"], tokens)])


def plain(model: Model, objective: LocalObjective, parameters: Parameters, rows: Tensor) -> Tensor:
    """Return the gradient of the mean loss."""
    features = model.backbone.encode_prompted_texts(list(objective.texts(parameters)))
    return torch.autograd.grad(objective.loss(parameters, features, rows)[0], parameters["ctx"])[0]


def private(
    space: ClipSpace,
    noise: float,
    model: Model,
    objective: LocalObjective,
    parameters: Parameters,
    rows: Tensor,
) -> Tensor:
    """Return the noised sum of clipped gradients."""
    trainer = DPSGD(SecretKey(bytes(32)), 1.0, noise, space)
    step = ExampleGradients(objective, parameters, model, is_unit_length=space == "features")  # type: ignore[arg-type]
    return trainer._noised(step, rows, 1, "")["ctx"]


def naive(model: Model, objective: LocalObjective, parameters: Parameters, rows: Tensor) -> Tensor:
    """Return the sum of clipped gradients, each through a pass of its own."""

    def loss(ctx: Tensor, row: Tensor) -> Tensor:
        features = model.backbone.encode_prompted_texts(list(objective.texts({"ctx": ctx})))
        return objective.loss({"ctx": ctx}, features, row[None])[0]

    gradient = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0), chunk_size=NAIVE_CHUNK)
    each = gradient(parameters["ctx"].detach(), rows)
    return (each / each.flatten(1).norm(dim=1).clamp(min=1.0)[:, None, None]).sum(0)


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--n-ctx", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = Model(load_backbone(options.backbone))
    objective = objective_of(model.backbone, options.classes, options.n_ctx, options.examples)
    rows = torch.arange(options.examples)
    ways: dict[str, Callable[[Model, LocalObjective, Parameters, Tensor], Tensor]] = {
        "plain": plain,
        "feature space, no noise": partial(private, "features", 0.0),
        "feature space": partial(private, "features", 0.8),
        "parameter space": partial(private, "parameters", 0.8),
        "naive vmap(grad), no noise": naive,
    }
    parameters, best = objective.parameters(model.backbone.device), dict.fromkeys(ways, float("inf"))
    for repeat in range(options.repeats + 1):
        for name, way in ways.items():
            began = time.process_time()
            way(model, objective, parameters, rows)
            if repeat:  # the first one loads parts of torch
                best[name] = min(best[name], time.process_time() - began)
    print(f"{options.backbone}, {options.classes} classes, {options.n_ctx} tokens, {options.examples} examples")
    for name, seconds in best.items():
        print(f"{name:28} {1000 * seconds:9.1f} ms {seconds / best['plain']:7.2f}x")


if __name__ == "__main__":
    main()
