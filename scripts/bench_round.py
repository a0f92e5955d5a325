"""Time one client step and one evaluation of PromptFL on open_clip's ViT-B-16 against a plain loop.

    python scripts/bench_round.py            # 20 classes x 8 shots, random weights; some ten minutes on two cores
    python scripts/bench_round.py --quick    # 5 classes x 2 shots

The plain loop is what a straightforward program does: every step encodes its images again, every text keeps all
77 positions, and evaluation encodes the class texts again for every batch of 100 images. Its images are decoded and
preprocessed beforehand, outside the clock. promptfed's step is `PromptFL.train` with a warm feature cache.
Each variant runs in a process of its own, so that its peak memory can be told. The losses must agree to 1e-5.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from promptfed.agreement import Agreement
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureCache, FeatureStore
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.config import validate
from promptfed.evaluation import accuracy
from promptfed.examples.base import ImageItem
from promptfed.method import METHODS, Method
from promptfed.setup import Setup
from promptfed.types import NO_PROMPT, Broadcast, ClientData, ClientPrompt, Split

ARCHITECTURE, WORDS, RATE, EVALUATION_BATCH = "ViT-B-16", "a photo of a", 0.002, 100
NAMES = (
    *("airplane", "bonsai", "chandelier", "cougar face", "dalmatian", "dragonfly", "electric guitar", "euphonium"),
    *("ewer", "ferry", "flamingo", "grand piano", "hawksbill turtle", "helicopter", "kangaroo", "menorah"),
    *("revolver", "scorpion", "sunflower", "trilobite"),
)


@dataclass(frozen=True)
class NoiseItem(ImageItem):
    """A picture of noise, 224 x 224."""

    number: int

    @property
    def name(self) -> str:
        return f"noise {self.number}"

    def content_id(self) -> str:
        return hashlib.sha256(f"bench noise {self.number}".encode()).hexdigest()

    def load(self) -> Image.Image:
        noise = np.random.default_rng(self.number).integers(0, 256, (7, 7, 3), dtype=np.uint8)
        return Image.fromarray(noise).resize((224, 224))


@dataclass(frozen=True)
class Size:
    classes: int
    shots: int

    @property
    def names(self) -> tuple[str, ...]:
        return NAMES[: self.classes]

    def split(self, first: int) -> Split:
        """``shots`` pictures of every class, numbered from ``first``."""
        total = self.classes * self.shots
        return Split(tuple(NoiseItem(first + i) for i in range(total)), torch.arange(total) % self.classes)

    def data(self) -> ClientData:
        nothing = Split((), torch.empty(0, dtype=torch.long))
        classes = tuple(range(self.classes))
        return ClientData(0, "client 0", classes, self.split(0), nothing, self.split(100_000))


def random_model() -> Any:
    """The architecture with weights that are the same in every process."""
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns that the weights are random, as they should be
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(ARCHITECTURE, pretrained=None)
    return model.eval().requires_grad_(False)


def peak_mib() -> float:
    """Largest resident size of this process so far; ru_maxrss counts KiB on Linux and bytes on macOS."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Shortest wall time of ``work``: what it takes when nothing else wants the processor."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


# ------------------------------------------------------------------------------------------------- variants


def promptfl(cache: Path, size: Size) -> Method:
    backbone = OpenClipBackbone(ARCHITECTURE, random_model(), open_clip.get_tokenizer(ARCHITECTURE))
    store = FeatureStore(backbone, FeatureCache(cache, 10**9))
    setup = Setup(DualEncoder(store), Agreement(classes=size.names, rounds=1, seed=0))
    options = {"init": WORDS, "optimizer": "sgd", "momentum": 0.0, "lr": RATE, "local_epochs": 1}
    kind = METHODS["promptfl"]
    return kind(validate(kind.Config, {**options, "batch_size": size.classes * size.shots}, "method option"), setup)


def run_fill(cache: Path, size: Size) -> dict[str, float]:
    """The one-off cost: every image through the tower, once."""
    method, data = promptfl(cache, size), size.data()
    items = data.train.items + data.test.items
    return {"seconds": seconds(lambda: method.setup.features.fill(items), 1), "images": len(items)}


def run_promptfed(cache: Path, size: Size) -> dict[str, float]:
    method, data = promptfl(cache, size), size.data()
    backbone, shared = method.setup.backbone, method.init_shared()
    broadcast = Broadcast(1, shared)

    def step() -> tuple[float, Any]:
        update, _ = method.train(broadcast, data, NO_PROMPT)
        return update.loss, update.shared

    first = seconds(step, 1)
    loss, prompt = step()

    def evaluate() -> float:
        return accuracy(method, ClientPrompt(prompt), size.names, data.test)

    evaluate()
    logits = method.logits(prompt, NO_PROMPT, size.names, data.test)
    return {
        "first_step": first,
        "step": seconds(step, 7),
        "evaluation": seconds(evaluate, 5),
        "step_loss": loss,
        "evaluation_loss": F.cross_entropy(logits, data.test.labels).item(),
        "image_encoder_calls": backbone.calls.images,
        "bytes_down": shared.nbytes,
        "bytes_up": prompt.nbytes,
    }


def run_floor(cache: Path, size: Size) -> dict[str, float]:
    """The text tower alone, forward and backward, every row as long as the longest sentence."""
    model, tokenizer = random_model(), open_clip.get_tokenizer(ARCHITECTURE)
    ids = tokenizer([f"{WORDS} {name}." for name in size.names])
    end = ids.argmax(-1)
    length = int(end.max()) + 1
    vectors = model.token_embedding(ids[:, :length]).requires_grad_()
    mask = model.attn_mask[:length, :length]

    def work() -> None:
        x = model.transformer(vectors + model.positional_embedding[:length], attn_mask=mask)
        (model.ln_final(x)[torch.arange(len(x)), end] @ model.text_projection).sum().backward()

    work()
    return {"seconds": seconds(work, 7), "tokens": length}


def run_plain(cache: Path, size: Size) -> dict[str, float]:
    model, tokenizer, data = random_model(), open_clip.get_tokenizer(ARCHITECTURE), size.data()
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    ids = tokenizer([f"{WORDS} {name}." for name in size.names])
    fixed, words = model.token_embedding(ids), len(tokenizer.encode(WORDS))
    ctx = fixed[0, 1 : 1 + words].clone().requires_grad_()
    optimizer = torch.optim.SGD([ctx], lr=RATE)

    def logits_of(pixels: Tensor) -> Tensor:
        prompts = torch.cat([fixed[:, :1], ctx.expand(len(fixed), -1, -1), fixed[:, 1 + words :]], dim=1)
        x = model.transformer(prompts + model.positional_embedding, attn_mask=model.attn_mask)
        texts = model.ln_final(x)[torch.arange(len(x)), ids.argmax(-1)] @ model.text_projection
        images = F.normalize(model.encode_image(pixels), dim=-1)
        logits: Tensor = model.logit_scale.exp() * images @ F.normalize(texts, dim=-1).T
        return logits

    def pixels_of(split: Split) -> Tensor:
        return torch.stack([transform(item.load()) for item in split.items])

    train, test = pixels_of(data.train), pixels_of(data.test)
    losses: list[float] = []

    def step() -> None:
        loss = F.cross_entropy(logits_of(train), data.train.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    @torch.no_grad()
    def evaluate() -> None:
        logits = torch.cat([logits_of(batch) for batch in torch.split(test, EVALUATION_BATCH)])
        losses.append(F.cross_entropy(logits, data.test.labels).item())

    took = {"step": seconds(step, 1), "evaluation": seconds(evaluate, 1)}
    return {**took, "step_loss": losses[0], "evaluation_loss": losses[1]}


VARIANTS = {"fill": run_fill, "promptfed": run_promptfed, "floor": run_floor, "plain": run_plain}


# --------------------------------------------------------------------------------------------------- report


def measure(variant: str, cache: Path, size: Size, threads: int) -> dict[str, float]:
    """Run ``variant`` in a process of its own and read the figures that it prints."""
    given = ["--variant", variant, "--cache", str(cache), "--classes", size.classes, "--shots", size.shots]
    command = [sys.executable, "-P", __file__, *map(str, given), "--threads", str(threads)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    figures: dict[str, float] = json.loads(told.splitlines()[-1])
    return figures


def summarise(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Ratios and the agreement of the losses. Raises SystemExit if they differ by more than 1e-5."""
    fast, plain, floor = found["promptfed"], found["plain"], found["floor"]
    apart = max(abs(fast[loss] - plain[loss]) for loss in ("step_loss", "evaluation_loss"))
    if apart > 1e-5:
        raise SystemExit(f"the losses differ by {apart:.1e}: {fast} and {plain}")
    return {
        "step_ratio": plain["step"] / fast["step"],
        "evaluation_ratio": plain["evaluation"] / fast["evaluation"],
        "memory_ratio": fast["peak_mib"] / plain["peak_mib"],
        "step_of_tower": fast["step"] / floor["seconds"],
        "loss_difference": apart,
    }


def table(found: dict[str, dict[str, float]], ratios: dict[str, float], size: Size) -> str:
    fill, fast, floor, plain = (found[name] for name in VARIANTS)
    rows = [
        f"{ARCHITECTURE}, random weights, {size.classes} classes x {size.shots} shots, "
        f"{floor['tokens']} of 77 tokens kept",
        "",
        "| | plain loop | promptfed | ratio |",
        "|---|---|---|---|",
        f"| client step (s) | {plain['step']:.2f} | {fast['step']:.3f} | {ratios['step_ratio']:.0f}x |",
        f"| evaluation (s) | {plain['evaluation']:.2f} | {fast['evaluation']:.3f} |"
        f" {ratios['evaluation_ratio']:.0f}x |",
        f"| peak memory (MiB) | {plain['peak_mib']:.0f} | {fast['peak_mib']:.0f} | {ratios['memory_ratio']:.2f} |",
        "",
        f"text tower, every row whole, forward and backward: {floor['seconds']:.3f} s; "
        f"a step takes {ratios['step_of_tower']:.2f} times that ({fast['first_step']:.3f} s the first time)",
        f"filling the cache, once: {fill['seconds']:.1f} s for {fill['images']} images, {fill['peak_mib']:.0f} MiB",
        f"bytes of a client and round: {fast['bytes_down']} down, {fast['bytes_up']} up; "
        f"image-encoder calls with a warm cache: {fast['image_encoder_calls']}",
        f"losses differ by {ratios['loss_difference']:.1e}",
    ]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--classes", type=int, default=20, choices=range(2, len(NAMES) + 1), metavar="N", help="2 to 20"
    )
    parser.add_argument("--shots", type=int, default=8, help="training images, and test images, of each class")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="5 classes x 2 shots")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--variant", choices=VARIANTS, help="run one variant in this process; needs --cache")
    parser.add_argument("--cache", type=Path, help="folder of the features; by default a temporary one")
    args = parser.parse_args()
    size = Size(5, 2) if args.quick else Size(args.classes, args.shots)
    if args.variant:
        torch.set_num_threads(args.threads)
        print(json.dumps({**VARIANTS[args.variant](args.cache, size), "peak_mib": peak_mib()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        cache = args.cache or Path(folder)
        found = {variant: measure(variant, cache, size, args.threads) for variant in VARIANTS}
    ratios = summarise(found)
    print(json.dumps({**found, "ratios": ratios}, indent=2) if args.json else table(found, ratios, size))


if __name__ == "__main__":
    main()
