"""Time promptfed on one card: filling of features, client steps, clients side by side; and how it agrees with the CPU.

    python scripts/bench_gpu.py                        # ViT-B-16 and ViT-L-14, float32 and bfloat16, random weights
    python scripts/bench_gpu.py --device cpu --small   # the same flow on a CPU with small towers

Every time is the shortest of several, after two that are not counted, and the card's work is waited for. A step is
``train_many`` of one round with one batch a client. The plain loop encodes all its images and all 77 positions of every
text in each step. "captured" is the text tower's pass alone under torch.compile. No step starts after --limit seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch.nn import functional as F

from promptfed.agreement import Agreement
from promptfed.backbones.device import PRECISIONS, pick_device
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureCache, FeatureStore
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.build_method import build_method
from promptfed.errors import ConfigError
from promptfed.examples.base import FileItem
from promptfed.method import Method
from promptfed.setup import Setup
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split

NAMES = (
    "airplane",
    "bonsai",
    "chandelier",
    "dalmatian",
    "dragonfly",
    "euphonium",
    "ferry",
    "flamingo",
    "menorah",
    "pizza",
)
SMALL = {"ViT-small": (64, 2, 32, 16)}
"""Name -> width, layers, image size, patch size."""
METHODS = ("promptfl", "fedtpg", "maple")
OPTIONS = {"optimizer": "sgd", "lr": 0.01, "local_epochs": 1, "batch_size": 32}


def model_of(name: str, precision: str) -> Any:
    """A CLIP with random weights, the same ones each time."""
    dtype = PRECISIONS[precision]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name not in SMALL:
            short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[precision]
            return open_clip.create_model(name, pretrained=None, precision=short)
        width, layers, size, patch = SMALL[name]
        image = {"image_size": size, "patch_size": patch, "width": width, "head_width": 16, "layers": layers}
        text = {"context_length": 77, "vocab_size": 49408, "width": width, "heads": 4, "layers": layers}
        cast = None if precision == "float32" else dtype
        model: Any = open_clip.CLIP(width, image, text, cast_dtype=cast)
        model.visual.preprocess_cfg = {"size": size}
    if cast is not None:
        open_clip.model.convert_weights_to_lp(model, cast)
    return model


class Bench:
    """The clock, and the data that all share."""

    def __init__(self, device: torch.device, folder: Path, images: int, repeats: int, limit: float) -> None:
        self.device, self.repeats = device, repeats
        self.until = time.monotonic() + limit
        self.tokenizer = open_clip.tokenizer.SimpleTokenizer()
        rng = np.random.default_rng(0)
        self.items = []
        for number in range(images):
            path = folder / f"{number}.jpg"
            Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480)).save(path)
            self.items.append(FileItem(path))

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float | None:
        """Shortest time of ``work``; None when there is no time left."""
        if time.monotonic() > self.until:
            return None
        times = []
        for count in range(2 + self.repeats):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            if count >= 2:
                times.append(time.perf_counter() - began)
        return min(times)

    def setup(self, name: str, precision: str, device: torch.device | None = None) -> Setup:
        place = str(self.device if device is None else device)
        model = model_of(name, precision)
        backbone = OpenClipBackbone(name, model, self.tokenizer, device=place, precision=precision)
        store = FeatureStore(backbone, FeatureCache(Path("unused"), 0))
        return Setup(DualEncoder(store), Agreement(classes=NAMES, rounds=1, seed=0))

    def clients(self, count: int) -> list[ClientData]:
        nothing = Split((), torch.empty(0, dtype=torch.long))
        labels = torch.arange(len(self.items)) % len(NAMES)
        split, classes = Split(tuple(self.items[:32]), labels[:32]), tuple(range(len(NAMES)))
        return [ClientData(client, f"client {client}", classes, split, nothing, nothing) for client in range(count)]


def step_of(method: Method, clients: list[ClientData]) -> Callable[[], Any]:
    jobs = [(Broadcast(1, method.init_shared()), data, NO_PROMPT) for data in clients]
    return lambda: method.train_many(jobs)


def plain_step(bench: Bench, setup: Setup, data: ClientData) -> Callable[[], Any]:
    """PromptFL as one would write it: nothing is kept from one step to the next."""
    model, device = setup.backbone._model, bench.device  # type: ignore[attr-defined]
    ids = bench.tokenizer([f"a photo of a {name}." for name in NAMES]).to(device)
    fixed, end = model.token_embedding(ids).detach(), ids.argmax(-1)
    ctx = fixed[0, 1:5].float().clone().requires_grad_()
    dtype, labels = model.transformer.get_cast_dtype(), data.train.labels.to(device)
    pixels = setup.features.pixels(data.train).to(dtype)

    def step() -> None:
        with torch.no_grad():
            images = F.normalize(model.encode_image(pixels).float(), dim=-1)
        rows = torch.cat([fixed[:, :1], ctx.to(fixed.dtype).expand(len(fixed), -1, -1), fixed[:, 5:]], 1).to(dtype)
        hidden = model.transformer(rows + model.positional_embedding.to(dtype), attn_mask=model.attn_mask)
        texts = model.ln_final(hidden)[torch.arange(len(ids), device=device), end] @ model.text_projection
        loss = F.cross_entropy(100 * images @ F.normalize(texts.float(), dim=-1).T, labels)
        (gradient,) = torch.autograd.grad(loss, ctx)
        with torch.no_grad():
            ctx.sub_(0.01 * gradient)

    return step


def captured_step(bench: Bench, setup: Setup) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The text tower's pass, forward and backward, as it is and compiled."""
    model, device = setup.backbone._model, bench.device  # type: ignore[attr-defined]
    dtype, width = model.transformer.get_cast_dtype(), model.positional_embedding.shape[1]
    rows = torch.randn(len(NAMES), 24, width, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    rows.requires_grad_()
    mask = model.attn_mask[:24, :24]

    def tower(inputs: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = model.transformer(inputs, attn_mask=mask)
        return hidden.float().square().mean()

    mode = "reduce-overhead" if device.type == "cuda" else "default"
    compiled = torch.compile(tower, mode=mode)
    return (lambda: torch.autograd.grad(tower(rows), rows)), (lambda: torch.autograd.grad(compiled(rows), rows))


def difference(bench: Bench, name: str) -> float:
    """Largest difference between this device and the CPU: features and PromptFL's prompt after a step, float32."""
    outcomes = []
    for device in (bench.device, torch.device("cpu")):
        setup = bench.setup(name, "float32", device)
        method = build_method("promptfl", OPTIONS, setup)
        data = bench.clients(1)
        images = F.normalize(setup.features.images(data[0].train), dim=-1).cpu()
        outcomes.append((images, step_of(method, data)()[0][0].shared["ctx"]))
    return max(float((a - b).abs().max()) for a, b in zip(*outcomes, strict=True))


def ms(seconds: float | None) -> str:
    return "no time left" if seconds is None else f"{1000 * seconds:.2f}"


def measure(bench: Bench, name: str, precision: str, batches: tuple[int, ...], compiles: bool) -> None:
    setup = bench.setup(name, precision)

    def fill() -> None:
        FeatureStore(setup.backbone, FeatureCache(Path("unused"), 0)).fill(bench.items)

    taken = bench.seconds(fill)
    rate = "no time left" if taken is None else f"{len(bench.items) / taken:.0f}"
    print(f"| {name} {precision} | features, images/s | {rate} |", flush=True)
    for method_name in METHODS:
        method = build_method(method_name, OPTIONS, setup)
        for batch in batches:
            taken = bench.seconds(step_of(method, bench.clients(batch)))
            per_client = None if taken is None else taken / batch
            print(f"| | {method_name}, {batch} side by side, ms a client | {ms(per_client)} |", flush=True)
    print(
        f"| | plain loop, ms a step | {ms(bench.seconds(plain_step(bench, setup, bench.clients(1)[0])))} |", flush=True
    )
    if compiles:
        for label, work in zip(("eager", "captured"), captured_step(bench, setup), strict=True):
            print(f"| | text tower, {label}, ms | {ms(bench.seconds(work))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--small", action="store_true", help="small towers and few images, to test the flow")
    parser.add_argument("--limit", type=float, default=400, help="seconds after which nothing more is begun")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    args = parser.parse_args()
    try:
        device = pick_device(args.device)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns that weights are random
    names = tuple(SMALL) if args.small else ("ViT-B-16", "ViT-L-14")
    batches = (1, 2) if args.small else (1, 8, 64)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        bench = Bench(device, Path(folder), 32 if args.small else 512, 1 if args.small else 5, args.limit)
        card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        print(f"{card}, torch {torch.__version__}\n\n| model | what | figure |\n|---|---|---|")
        for name in names:
            apart = difference(bench, name)
            print(f"| {name} float32 | largest difference from the CPU | {apart:.1e} |", flush=True)
            if apart > 1e-4:
                raise SystemExit(f"{name} differs from the CPU by {apart:.1e}, more than 1e-4")
            for precision in ("float32", "bfloat16"):
                measure(bench, name, precision, batches, not args.no_compile)


if __name__ == "__main__":
    main()
