"""Time a round of PromptFL with its clients one by one and side by side, on small and large text towers.

    python scripts/bench_client_batch.py                 # tiny, lit and ViT-B-16 (random weights); some ten minutes
    python scripts/bench_client_batch.py --models tiny

Sixteen clients take one step each on sixteen images, whose features are random numbers: what is timed is the text side,
the losses and the optimisers. A cell is the time of a client, the best of a few rounds, relative to one by one.
``auto`` is what ``--client-batch auto`` chooses.
"""

from __future__ import annotations

import argparse
import time

import open_clip
import torch
from bench_round import random_model
from torch import Tensor

from promptfed.agreement import Agreement
from promptfed.backbones import load_backbone
from promptfed.backbones.base import Backbone
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureCache, FeatureStore
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.build_method import build_method
from promptfed.client_batch import automatic_batch, tokens_of_client
from promptfed.method import Method
from promptfed.setup import Setup
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split

CLIENTS, IMAGES, N_CTX = 16, 16, 16
BATCHES = (1, 2, 4, 8, 16)
CLASSES = (2, 5, 20, 100)
REPEATS = {"tiny": 9, "lit": 3, "ViT-B-16": 2}


class RandomFeatures(FeatureStore):
    """Image features that are random numbers, by the split."""

    def images(self, split: Split) -> Tensor:
        stream = torch.Generator().manual_seed(0)
        return torch.randn(split.total, self.backbone.embed_dim, generator=stream)


def backbone_of(name: str) -> Backbone:
    """Return a bundled backbone, or ViT-B-16 with random weights."""
    if name in ("tiny", "lit"):
        return load_backbone(name)
    return OpenClipBackbone(name, random_model(), open_clip.get_tokenizer(name))


def promptfl(backbone: Backbone, classes: int) -> Method:
    """Return PromptFL for so many classes."""
    store = RandomFeatures(backbone, FeatureCache.__new__(FeatureCache))
    names = tuple(f"icon {number}" for number in range(classes))
    agreement = Agreement(classes=names, templates=("a photo of a {}.",), rounds=10, seed=0, domains=("",) * CLIENTS)
    return build_method("promptfl", {"local_epochs": 1, "n_ctx": N_CTX}, Setup(DualEncoder(store), agreement))


def seconds_of_batches(method: Method, classes: int, repeats: int) -> dict[int, float]:
    """Return the best seconds of a client for each number of clients side by side; they take turns."""
    nothing = Split((), torch.empty(0, dtype=torch.long))
    train = Split((), torch.arange(IMAGES) % classes)
    shared = method.init_shared()
    jobs = []
    for client in range(CLIENTS):
        data = ClientData(client, str(client), tuple(range(classes)), train, nothing, nothing)
        jobs.append((Broadcast(1, shared), data, NO_PROMPT))
    best = dict.fromkeys(BATCHES, float("inf"))
    for _ in range(repeats):
        for batch in BATCHES:
            start_time = time.perf_counter()
            for start in range(0, CLIENTS, batch):
                method.train_many(jobs[start : start + batch])
            best[batch] = min(best[batch], (time.perf_counter() - start_time) / CLIENTS)
    return best


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(REPEATS), help="comma-separated")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    heads = " | ".join(f"{batch} side by side" for batch in BATCHES[1:])
    print(f"| model | classes | one by one (ms) | {heads} | auto |")
    print("|---|---|---|" + "---|" * len(BATCHES))
    for name in options.models.split(","):
        backbone = backbone_of(name)
        for classes in CLASSES:
            method = promptfl(backbone, classes)
            best = seconds_of_batches(method, classes, REPEATS[name])
            ratios = " | ".join(f"{best[batch] / best[1]:.2f}" for batch in BATCHES[1:])
            auto = automatic_batch(tokens_of_client(backbone, method.setup.classes, N_CTX))
            print(f"| {name} | {classes} | {1000 * best[1]:.1f} | {ratios} | {auto} |", flush=True)


if __name__ == "__main__":
    main()
