"""A backbone small enough to compute by hand, a method for it, and images that it can tell apart."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.agreement import Agreement
from promptfed.backbones.base import Backbone, CallCount, ClassTokens, DeepContext, Position
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureStore
from promptfed.config import RunConfig
from promptfed.export.bundle import Bundle, make_bundle
from promptfed.method import METHODS, FeatureMethod, Method, MethodConfig
from promptfed.prompt_state import PromptState
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, ClientPrompt, Split, Update

sys.path.append(str(Path(__file__).parent))  # for thermometer.py, which is no test

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "yellow": (1.0, 1.0, 0.0)}


class ColourBackbone(Backbone):
    """An image's features are its mean colour, a colour word's are that colour."""

    name = "colours"
    text_dim = 3
    embed_dim = 3
    logit_scale = 10.0
    context_length = 8

    def __init__(self, fingerprint: str = "c0ffee" * 10, name: str = "colours") -> None:
        self.device, self.calls, self.name = torch.device("cpu"), CallCount(), name
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def weights_sha256(self) -> str:
        return self._fingerprint

    def preprocess(self, image: Image.Image) -> Tensor:
        return torch.tensor(image.resize((1, 1)).getpixel((0, 0))).float().div(255)[:, None, None]

    def encode_images(self, pixels: Tensor) -> Tensor:
        self.calls.images += len(pixels)
        return pixels.mean((2, 3))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.calls.texts += len(texts)
        return torch.tensor([COLOURS[text] for text in texts])

    def class_tokens(self, classes: Sequence[str], n_ctx: int, position: Position = "end") -> ClassTokens:
        raise AssertionError("the method of these tests does not tokenise")

    def encode_embeddings(self, vectors: Tensor, end: Tensor, deep: DeepContext | None = None) -> Tensor:
        raise AssertionError("the method of these tests does not tokenise")

    def embed_words(self, text: str) -> Tensor:
        raise AssertionError("the method of these tests does not tokenise")


class PlainStore(FeatureStore):
    """Encodes without a cache."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def images(self, split: Split) -> Tensor:
        return self.backbone.encode_images(torch.stack([self.backbone.preprocess(i.load()) for i in split.items]))


class TintConfig(MethodConfig):
    strength: float = Field(1.0, ge=0)


class Tint(FeatureMethod):
    """Text feature of a class = its colour + ``strength`` * (shared tint + personal tint), normalised."""

    name = "tint"
    paper = "none"
    Config = TintConfig

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        raise AssertionError("nothing is trained in these tests")

    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        plain = self.setup.backbone.encode_text(classes)
        assert isinstance(self.config, TintConfig)
        return F.normalize(plain + self.config.strength * (shared["tint"] + personal["tint"]), dim=-1)


class Backwards(Tint):
    """A method that scores images in a way of its own: the worst match wins."""

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        return -super().logits(shared, personal, classes, split)


@pytest.fixture(scope="package")
def methods() -> Iterator[dict[type[Method], str]]:
    """The registered names of the methods above; unlikely ones, so that no real method is ever shadowed."""
    names = {kind: f"{kind.__name__.lower()}-{uuid.uuid4().hex}" for kind in (Tint, Backwards)}
    list(METHODS)  # all real ones are found first, and stay when these are gone
    with pytest.MonkeyPatch.context() as patch:  # gone afterwards: other tests look at every method there is
        for kind, name in names.items():
            patch.setitem(METHODS._entries, name, kind)
        yield names


@pytest.fixture
def make_model() -> Callable[..., DualEncoder]:
    """``make_model(fingerprint, name)``: another dual encoder."""
    return lambda *identity: DualEncoder(PlainStore(ColourBackbone(*identity)))


@pytest.fixture
def backbone() -> ColourBackbone:
    return ColourBackbone()


@pytest.fixture
def store(backbone: ColourBackbone) -> PlainStore:
    return PlainStore(backbone)


@pytest.fixture
def model(store: PlainStore) -> DualEncoder:
    return DualEncoder(store)


@pytest.fixture
def bundle_of(
    backbone: ColourBackbone, store: PlainStore, methods: dict[type[Method], str]
) -> Callable[[type[Method]], Bundle]:
    def make(kind: type[Method]) -> Bundle:
        setup = Setup(
            DualEncoder(store), Agreement(classes=("red", "green", "blue"), templates=("a {} wall.",), rounds=3, seed=5)
        )
        shared = PromptState({"tint": torch.tensor([0.1, 0.0, 0.0])})
        personal = PromptState({"tint": torch.tensor([0.0, 0.2, 0.0])})
        method = kind(TintConfig(strength=0.5), setup)
        config = RunConfig(method=methods[kind], rounds=3, seed=5)
        return make_bundle(config, method, ClientPrompt(shared, personal), 2, "house 2", "images")

    return make


@pytest.fixture
def bundle(bundle_of: Callable[[type[Method]], Bundle]) -> Bundle:
    return bundle_of(Tint)


@pytest.fixture
def backwards(bundle_of: Callable[[type[Method]], Bundle]) -> Bundle:
    return bundle_of(Backwards)


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    """One plain picture of each colour."""
    paths = {}
    for name, rgb in COLOURS.items():
        paths[name] = tmp_path / f"{name}.png"
        Image.new("RGB", (6, 4), tuple(int(255 * value) for value in rgb)).save(paths[name])
    return paths
