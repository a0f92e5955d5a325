"""Time the text side of a client step with and without the shared prefix, on the text tower of ViT-B-16.

    python scripts/bench_text.py            # random weights; some five minutes on two cores
    python scripts/bench_text.py --quick    # the first row alone

A row is one forward and backward pass over all class names under one learned context. The plain way puts every row
through the tower whole, cut after the longest end token; the shared way computes the start token and the context once.
Each is the best of three on ``--threads`` threads, in a process of its own, so that its peak memory can be told: what
the pass adds to that of the loaded model.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
from itertools import product
from typing import Any

import open_clip
import torch
from torch.nn import functional as F

from promptfed.backbones import shared_prefix
from promptfed.backbones.base import PromptedText
from promptfed.backbones.openclip import OpenClipBackbone

ARCHITECTURE = "ViT-B-16"
FIRST = (
    *("airplane", "bonsai", "chandelier", "cougar face", "dalmatian", "dragonfly", "electric guitar", "euphonium"),
    *("ewer", "ferry", "flamingo", "grand piano", "hawksbill turtle", "helicopter", "kangaroo", "menorah"),
    *("revolver", "scorpion", "sunflower", "trilobite"),
)
KINDS = ("", "red", "old", "toy", "wooden")
ROWS = ((16, 20), (4, 20), (16, 100), (16, 1000))
"""(context tokens, classes)."""


def names(count: int) -> list[str]:
    """Return so many class names of one to six tokens."""
    pairs = product(range(-(-count // (len(FIRST) * len(KINDS)))), KINDS, FIRST)
    every = [" ".join(filter(None, (kind, name, str(number) if number else ""))) for number, kind, name in pairs]
    return every[:count]


def measured(way: str, n_ctx: int, classes: int, threads: int) -> dict[str, Any]:
    """Return seconds, MiB, and what is compared of one way."""
    torch.set_num_threads(threads)
    logging.getLogger().setLevel(logging.ERROR)  # the weights are random, as they should be
    torch.manual_seed(0)
    model = open_clip.create_model(ARCHITECTURE, pretrained=None)
    backbone = OpenClipBackbone(ARCHITECTURE, model, open_clip.get_tokenizer(ARCHITECTURE))
    if way == "plain":
        shared_prefix.LEAST_SAVED = 2.0  # nothing saves twice the work
    tokens = backbone.class_tokens(names(classes), n_ctx)
    ctx = 0.02 * torch.randn(n_ctx, backbone.text_dim, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(classes, backbone.embed_dim, generator=torch.Generator().manual_seed(2))
    before, taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(1 if classes >= 1000 else 3):
        leaf, began = ctx.clone().requires_grad_(), time.perf_counter()
        features = F.normalize(backbone.encode_prompted_texts([PromptedText(leaf, tokens)])[0], dim=-1)
        (features * weights).sum().backward()
        taken.append(time.perf_counter() - began)
    assert leaf.grad is not None
    return {
        "seconds": min(taken),
        "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "length": int(tokens.end.max()) + 1,
        "features": features.detach()[:20].tolist(),
        "gradient": leaf.grad.tolist(),
    }


def in_process(*words: object) -> dict[str, Any]:
    """Return what ``measured`` says of some words, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--one", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first row alone")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch [1]")
    parser.add_argument("--one", nargs=4, metavar=("WAY", "CONTEXT", "CLASSES", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, *numbers = options.one
        print(json.dumps(measured(way, *map(int, numbers))))
        return
    print("| context | classes | longest | every row whole | shared prefix | ratio | memory | features | gradient |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for n_ctx, classes in ROWS[: 1 if options.quick else None]:
        plain, shared = (in_process(way, n_ctx, classes, options.threads) for way in ("plain", "shared"))
        features, gradient = (
            torch.tensor(plain[part]) - torch.tensor(shared[part]) for part in ("features", "gradient")
        )
        relative = gradient.norm() / torch.tensor(plain["gradient"]).norm()
        print(
            f"| {n_ctx} | {classes} | {plain['length']} | {plain['seconds']:.3f} s | {shared['seconds']:.3f} s | "
            f"{shared['seconds'] / plain['seconds']:.2f} | {shared['mib']:,.0f} / {plain['mib']:,.0f} MiB | "
            f"{features.abs().max():.0e} | {relative:.0e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
