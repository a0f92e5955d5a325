"""A backbone small enough to check by hand, and a task on it: what the tests of methods and federations share."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are shared with the other workers, and torch reads this once
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from promptfed.agreement import Agreement
from promptfed.backbones.base import (
    Backbone,
    CallCount,
    ClassTokens,
    DeepContext,
    Position,
    PromptedImages,
    hash_tensors,
)
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureCache, FeatureStore
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.config import build_config
from promptfed.examples.base import ImageItem
from promptfed.setup import Setup
from promptfed.tasks import TASKS
from promptfed.types import ClientData, FederatedTask, Split


@pytest.fixture(autouse=True, scope="session")
def _idle_machine() -> Iterator[None]:
    """What else runs on the machine is not remarked upon in the tests' runs."""
    with pytest.MonkeyPatch.context() as patch:
        if hasattr(os, "getloadavg"):
            patch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
        yield


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never read or fill the user's caches, nor what the user trusts."""
    os.environ["PROMPTFED_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["PROMPTFED_CONFIG"] = str(tmp_path_factory.mktemp("config"))
    os.environ["PROMPTFED_STATE"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True, scope="session")
def no_wait_for_the_disk() -> Iterator[None]:
    """No test cuts the power: what this process has written is there, whether the disk has it yet or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module")
def forgets_classes() -> Iterator[None]:
    """Classes that a module's tests hand over are registered in this process until the module's end."""
    from promptfed.objects import CLASSES

    before = {role: ({name: registry[name] for name in registry}, set()) for role, registry in CLASSES.items()}
    yield
    for role, registry in CLASSES.items():
        registry._entries, registry._adopted = before[role]


@pytest.fixture(scope="session")
def photos() -> Path:
    """The optional folder of real data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("PROMPTFED_DATA", "../shared/data"))
    if not folder.is_dir():
        pytest.skip("no PROMPTFED_DATA")
    return folder


@dataclass(frozen=True)
class DotItem(ImageItem):
    """A 2x2 picture in one colour."""

    colour: tuple[int, int, int]

    @property
    def name(self) -> str:
        return f"dot {self.colour}"

    def content_id(self) -> str:
        return bytes(self.colour).hex().ljust(64, "0")

    def load(self) -> Image.Image:
        return Image.new("RGB", (2, 2), self.colour)


class ToyBackbone(Backbone):
    """Image feature = mean colour. Text feature = mixed, squashed sum of the token embeddings (letters).

    Differentiable in the context, deterministic, and its figures can be worked out on paper.
    """

    def __init__(self) -> None:
        self.name, self.text_dim, self.embed_dim = "toy", 4, 3
        self.logit_scale, self.context_length = 10.0, 40
        self.device, self.calls = torch.device("cpu"), CallCount()
        draw = torch.Generator().manual_seed(0)
        self.letters = torch.randn(128, 4, generator=draw)
        self.mix = torch.randn(4, 3, generator=draw)
        self._loaded_sha256 = self.weights_sha256()

    @property
    def fingerprint(self) -> str:
        return self._loaded_sha256

    def weights_sha256(self) -> str:
        return hash_tensors([("letters", self.letters), ("mix", self.mix)])

    def preprocess(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255

    def encode_images(self, pixels: Tensor) -> Tensor:
        self.calls.images += len(pixels)
        return pixels.mean((-1, -2)) - 0.5

    def embed_words(self, text: str) -> Tensor:
        return self.letters[[ord(c) for c in text]]

    def encode_embeddings(self, embeddings: Tensor, end: Tensor, deep: DeepContext | None = None) -> Tensor:
        self.calls.texts += len(embeddings)
        kept = (torch.arange(embeddings.shape[1]) <= end[:, None])[..., None]
        return torch.tanh((embeddings * kept).sum(1) @ self.mix / 4)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        tokens = self.class_tokens(list(texts), 0)
        return self.encode_embeddings(tokens.embeddings, tokens.end)

    def class_tokens(self, classes: Sequence[str], n_ctx: int, position: Position = "end") -> ClassTokens:
        longest = max(len(c) for c in classes)
        embeddings = torch.zeros(len(classes), n_ctx + longest, self.text_dim)
        for row, name in enumerate(classes):
            embeddings[row, n_ctx : n_ctx + len(name)] = self.embed_words(name)
        slots = torch.arange(n_ctx).expand(len(classes), -1)
        return ClassTokens(embeddings, slots, torch.tensor([n_ctx + len(c) - 1 for c in classes]))


@pytest.fixture
def backbone() -> ToyBackbone:
    return ToyBackbone()


@pytest.fixture
def setup(backbone: ToyBackbone, toy_task: FederatedTask, tmp_path: Path) -> Setup:
    features = FeatureStore(backbone, FeatureCache(tmp_path / "features", limit_bytes=0))
    return Setup(DualEncoder(features), agreement_of(toy_task))


def agreement_of(task: FederatedTask) -> Agreement:
    """Three rounds on ``task``."""
    return Agreement(classes=task.base_classes, templates=task.templates, rounds=3, seed=0, domains=task.domains)


@pytest.fixture
def make_split() -> Callable[..., Split]:
    """``make_split(seed, labels)``: one noisy dot a label, its colour given by the label."""

    def make(seed: int, labels: Sequence[int]) -> Split:
        rng = np.random.default_rng(seed)
        colours = np.array(
            [[220, 40, 40], [40, 220, 40], [40, 40, 220], [210, 210, 40], [210, 40, 210], [40, 210, 210]]
        )
        dots = [tuple(int(v) for v in np.clip(colours[k] + rng.integers(-30, 31, 3), 0, 255)) for k in labels]
        return Split(tuple(DotItem(dot) for dot in dots), torch.tensor(list(labels), dtype=torch.int64))

    return make


@pytest.fixture
def toy_task(make_split: Callable[..., Split]) -> FederatedTask:
    """Three clients with 1, 1 and 2 of the four base classes and unequal amounts of data; two new classes."""
    held = {0: (0,), 1: (1,), 2: (2, 3)}
    clients = []
    for client, classes in held.items():
        per_class = 3 + client
        train, val, test = (
            make_split(10 * client + part, [k for k in classes for _ in range(per_class)]) for part in range(3)
        )
        clients.append(ClientData(client, f"client {client}", classes, train, val, test))
    base = make_split(100, [0, 1, 2, 3] * 5)
    new = make_split(101, [4, 5] * 5)
    new = Split(new.items, new.labels - 4)
    return FederatedTask(
        "toy", ("red", "green", "blue", "ochre"), ("pink", "cyan"), tuple(clients), base, new, ("{}", "a {}", "the {}")
    )


def beside(name: str, *folders: str) -> Any:
    """The module ``name`` in tests/``folders``, which tests of other folders use too."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent.joinpath(*folders, f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.get(name) or importlib.util.module_from_spec(spec)
    if name not in sys.modules:
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def fake_grid() -> Any:
    """The module of ``FakeGrid``, a grid of Flower's without a network; the test is skipped without Flower."""
    pytest.importorskip("flwr")
    return beside("fake_grid", "deployment")


@pytest.fixture
def stub_server() -> Iterator[Any]:
    """``stub_server(fault=...)``: a server that speaks OpenAI's protocol (tests/blackbox/oracles/stub_server.py)."""
    module = beside("stub_server", "blackbox", "oracles")
    begun: list[Any] = []

    def begin(**options: Any) -> Any:
        begun.append(module.Stub(**options))
        return begun[-1]

    yield begin
    for stub in begun:
        stub.close()


@pytest.fixture
def promptable_setup(backbone, setup, tmp_path: Path):
    """``setup`` with visual prompts: an image attends to the tokens that resemble its colour, and they pull on it."""

    class Promptable(type(backbone)):
        vision_dim = 3
        vision_layers = 1
        abilities = frozenset({"visual prompts"})

        def encode_prompted_images(self, pixels: Tensor, ctx: Tensor, deep: Tensor | None = None) -> PromptedImages:
            colour = self.encode_images(pixels)
            attention = (5 * colour @ ctx.T).softmax(-1)
            return PromptedImages(colour + (attention @ ctx).tanh(), attention)

    promptable = Promptable()
    store = FeatureStore(promptable, FeatureCache(tmp_path / "promptable", limit_bytes=0))
    return replace(setup, model=DualEncoder(store))


@pytest.fixture(scope="session")
def small_clip() -> OpenClipBackbone:
    """A real CLIP with random weights: both towers three blocks deep, so that prompts can be deep too."""
    import open_clip

    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = open_clip.CLIP(
            12,
            {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 3},
            {"context_length": 32, "vocab_size": 49408, "width": 20, "heads": 2, "layers": 3},
        )
    model.visual.preprocess_cfg = {"size": 16}
    return OpenClipBackbone("small", model, open_clip.tokenizer.SimpleTokenizer(context_length=32))


@pytest.fixture
def clip_setup(small_clip: OpenClipBackbone, setup, tmp_path: Path):
    """``setup`` with the small CLIP."""
    features = FeatureStore(small_clip, FeatureCache(tmp_path / "clip", limit_bytes=0))
    return replace(setup, model=DualEncoder(features))


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FederatedTask]:
    """``build(data=..., shots=...)``: the task ``clip-fewshot`` with these options, and a cache of its own."""
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))

    def make(**options: object) -> FederatedTask:
        return TASKS["clip-fewshot"].build(build_config(options))

    return make


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """``make_folder({"cat": 3, "photo/dog": 2})``: so many different little pictures beneath each folder."""

    def make(counts: dict[str, int], name: str = "pictures", prefix: str = "") -> Path:
        root = tmp_path / name
        for number, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng([number, len(prefix)])
            for i in range(count):
                pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{prefix}{i:03}.png")
        return root

    return make
