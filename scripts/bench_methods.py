"""Time one client-round of every method against a plain implementation of the same method.

    python scripts/bench_methods.py                          # tiny: 20 classes x 8 shots
    python scripts/bench_methods.py --backbone ViT-B-16      # random weights, 20 classes x 2 shots; tens of minutes
    python scripts/bench_methods.py --methods promptfl,kgcoop

A client-round is one gradient step on all of the client's images, after a first one that warmed the caches. Plain
means: the same loss and the same optimiser, but images, sentences and patch features are encoded again in every round,
and every text keeps all positions of the context. (Plain programs encode their images again for every *epoch*: with
more local epochs the ratio grows.) Both must end with the same prompt.

The text tower alone, every row whole, is forward and backward on the texts that this method needs in a step, cut after
the longest end token. A step that shares what its texts begin with takes less. Methods with gradients through the image
tower take more: their image tower is in the loop, and they are marked.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from bench_round import Size, random_model, seconds
from torch import Tensor
from torch.nn import functional as F

from promptfed.aggregators.base import build_aggregator
from promptfed.agreement import Agreement
from promptfed.backbones import load_backbone
from promptfed.backbones.base import DeepContext
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureCache, FeatureStore
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.build_method import build_method
from promptfed.local_training import GradientMethod
from promptfed.method import METHODS, Method
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData

BASELINES = {"zero_shot", "local_only"}
CLIENTS = 4
ONE_STEP = {"optimizer": "sgd", "momentum": 0.0, "lr": 0.002, "local_epochs": 1, "batch_size": 10**6}


class PlainStore(FeatureStore):
    """Encodes again whatever is asked for."""

    def forget(self) -> None:
        for memory in (self._splits, self._images, self._patches, self._texts, self._kept_pixels):
            memory.clear()


def load(name: str, plain: bool) -> OpenClipBackbone:
    if name == "tiny":
        backbone = load_backbone("tiny")
    else:
        backbone = OpenClipBackbone(name, random_model(), open_clip.get_tokenizer(name))
    if not isinstance(backbone, OpenClipBackbone):
        raise SystemExit(f"backbone '{name}' is not an open_clip model")
    if plain:

        def whole_context(vectors: Tensor, end: Tensor, deep: DeepContext | None = None) -> Tensor:
            backbone.calls.texts += len(end)
            return backbone._tower.encode(
                F.pad(vectors, (0, 0, 0, backbone.context_length - vectors.shape[1])), end, deep
            )

        backbone.encode_embeddings = whole_context  # type: ignore[method-assign]
        backbone._tower.prefixes = None
    return backbone


@dataclass
class Bench:
    """One method with its first client's data, ready to do a round over and over."""

    method: Method
    data: ClientData
    broadcast: Broadcast
    personal: Any

    @classmethod
    def of(cls, name: str, backbone: OpenClipBackbone, store: FeatureStore, size: Size) -> Bench:
        domains = tuple(f"client {k}" for k in range(CLIENTS))
        setup = Setup(
            DualEncoder(store),
            Agreement(classes=size.names, templates=("a photo of a {}.",), rounds=10, seed=0, domains=domains),
        )
        known = METHODS[name].Config.model_fields
        method = build_method(name, {k: v for k, v in ONE_STEP.items() if k in known}, setup)
        aggregator = build_aggregator((METHODS[name].aggregators or ("mean",))[0], {})
        server = method.server_side(aggregator)
        shared = method.init_shared()
        return cls(
            method,
            size.data(),
            Broadcast(1, server.broadcast(shared, server.init(shared), 0)),
            method.init_personal(0),
        )

    def begin(self) -> None:
        """A first round, after which caches are warm and the client has whatever it keeps."""
        _, self.personal = self.method.train(self.broadcast, self.data, self.personal)

    def round(self) -> dict[str, Tensor]:
        """What the client sends and keeps after one round."""
        update, personal = self.method.train(self.broadcast, self.data, self.personal)
        return {**update.shared, **{f"personal/{name}": t for name, t in personal.items()}}

    def whole_rows(self, backbone: OpenClipBackbone) -> float:
        """Seconds of the text tower for one step, forward and backward, with every row whole."""
        if not isinstance(self.method, GradientMethod):
            return float("nan")
        problem = self.method.problem(self.broadcast, self.data, self.personal)
        parameters = {n: t.clone().requires_grad_(True) for n, t in problem.start.items()}
        if not problem.texts(parameters):
            return float("nan")

        def work() -> None:
            encoded = backbone.encode_prompted_texts(list(problem.texts(parameters)))
            torch.cat([features.flatten() for features in encoded]).sum().backward()

        shared, backbone._tower.prefixes = backbone._tower.prefixes, None
        try:
            work()
            return seconds(work, 5)
        finally:
            backbone._tower.prefixes = shared


def measure(name: str, size: Size, fast: OpenClipBackbone, slow: OpenClipBackbone, folder: Path) -> dict[str, Any]:
    ours = Bench.of(name, fast, FeatureStore(fast, FeatureCache(folder, 10**10)), size)
    ours.begin()
    images, texts = fast.calls.images, fast.calls.texts
    outcome = ours.round()
    calls = {"images": fast.calls.images - images, "texts": fast.calls.texts - texts}
    step, whole = seconds(ours.round, 5), ours.whole_rows(fast)

    plain_store = PlainStore(slow, FeatureCache(folder / "never", 0))
    plain = Bench.of(name, slow, plain_store, size)
    plain.begin()
    images, texts = slow.calls.images, slow.calls.texts
    found: dict[str, Tensor] = {}

    def plain_round() -> None:
        plain_store.forget()
        found.update(plain.round())

    took = seconds(plain_round, 1)
    difference = max((float((found[n] - t).abs().max()) for n, t in outcome.items() if t.numel()), default=0.0)
    return {
        "method": name,
        "plain_ms": 1000 * took,
        "promptfed_ms": 1000 * step,
        "ratio": took / step,
        "tower_ms": 1000 * whole,
        "of_tower": step / whole,
        "image_calls": calls["images"],
        "text_calls": calls["texts"],
        "plain_image_calls": slow.calls.images - images,
        "plain_text_calls": slow.calls.texts - texts,
        "image_tower_in_the_loop": calls["images"] > 0,
        "difference": difference,
    }


def line(row: dict[str, Any]) -> str:
    tower = "-" if row["tower_ms"] != row["tower_ms"] else f"{row['tower_ms']:.1f}"
    over = "-" if tower == "-" else f"{row['of_tower']:.2f}" + (" (image tower)" * row["image_tower_in_the_loop"])
    return (
        f"| {row['method']} | {row['plain_ms']:.0f} | {row['promptfed_ms']:.1f} | {row['ratio']:.1f}x "
        f"| {tower} | {over} "
        f"| {row['image_calls']} / {row['text_calls']} | {row['plain_image_calls']} / {row['plain_text_calls']} "
        f"| {row['difference']:.0e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=("tiny", "ViT-B-16"), default="tiny")
    parser.add_argument("--methods", help="comma-separated; by default all white-box methods but the baselines")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--shots", type=int, help="images of each class [8; ViT-B-16: 2]")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    size = Size(args.classes, args.shots or (8 if args.backbone == "tiny" else 2))
    white = [name for name in METHODS if name not in BASELINES and METHODS[name].access != "black box"]
    names = args.methods.split(",") if args.methods else white
    rows = []
    if not args.json:
        print(f"{args.backbone}, {size.classes} classes x {size.shots} shots, {torch.get_num_threads()} threads\n")
        print("| method | plain (ms) | promptfed (ms) | ratio | text tower, every row whole (ms) | of it |", end="")
        print(" image / text calls | plain calls | difference |\n|---|---|---|---|---|---|---|---|---|")
    fast, slow = load(args.backbone, plain=False), load(args.backbone, plain=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            row = measure(name, size, fast, slow, Path(folder))
            rows.append(row)
            if not args.json:
                print(line(row), flush=True)
    if args.json:
        print(json.dumps(rows, indent=2))
    wrong = [row["method"] for row in rows if not row["difference"] < 1e-3]
    if wrong:
        raise SystemExit(f"plain and promptfed end with different prompts: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
