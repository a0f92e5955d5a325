"""Backbones of the open_clip library: any CLIP or SigLIP whose text tower ``text_towers`` can prompt.

The tower says where a sentence is read and what may be cut. Causal attention never looks ahead, so what follows the
end token cannot change the feature of a causal tower: sequences are cut after the longest end token, which is exact
and saves most of CLIP's 77 positions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from promptfed.backbones.base import (
    Backbone,
    CallCount,
    ClassTokens,
    DeepContext,
    Position,
    PromptedImages,
    PromptedText,
    TokenEmbeddings,
    freeze,
    hash_tensors,
)
from promptfed.backbones.device import full_precision, pick_device, pick_dtype
from promptfed.backbones.shared_prefix import plain_sentences, prompted_sentences
from promptfed.backbones.text_tokenizers import TextTokenizer, text_tokenizer
from promptfed.backbones.text_tower_kinds import CAUSAL
from promptfed.backbones.text_towers import MaskedTower, TextTower, text_tower
from promptfed.backbones.tokenization import Sentences
from promptfed.backbones.vision_transformer import PromptableViT
from promptfed.errors import BackboneError, reason

if TYPE_CHECKING:
    from open_clip import CLIP, CustomTextCLIP

PREFIX = "open_clip:"
DRAWS = 5
"""Number of tries of a user's transform on one picture, to see whether it is random."""
TEXT_ROWS = 256
"""Texts that pass through the tower at once. More are done in parts, and with a gradient each part's activations
are computed again in the backward pass, so that memory does not grow with the number of classes."""


class OpenClipBackbone(Backbone):
    """A frozen open_clip ``model`` with its ``tokenizer``; the model carries its ``visual.preprocess_cfg``.

    ``model`` is moved to ``device``; its weights must already have the given ``precision``
    (open_clip keeps normalisation layers and embeddings in float32). ``transform`` is used instead of its
    preprocessing.
    Raises BackboneError if the text tower or the tokenizer is of a kind that cannot be prompted.
    """

    _tower: TextTower

    def __init__(
        self,
        name: str,
        model: CLIP | CustomTextCLIP,
        tokenizer: Any,
        *,
        device: str = "cpu",
        precision: str = "float32",
        transform: Callable[[Image.Image], Tensor] | None = None,
    ) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.name = name
        self.device, self._dtype = pick_device(device), pick_dtype(precision)
        words = text_tokenizer(name, tokenizer)
        self._tower = text_tower(name, model, self._dtype, words.limit)
        self._tower.check_frame(name, words.frame)
        self._model: Any = freeze(model).to(self.device)
        settings = PreprocessCfg(**model.visual.preprocess_cfg)
        default_transform = image_transform_v2(settings, is_train=False)
        probe = "" if transform is None else _probe(name, transform)
        if probe and probe == _probe(name, default_transform):  # the model's own: its features have the same key
            transform, probe = None, ""
        self._transform = transform or default_transform
        self.is_thread_safe = transform is None  # nobody knows of a user's

        self.text_dim, self.embed_dim = self._tower.text_dim, self._tower.embed_dim
        self.context_length, self.text_layers = self._tower.context_length, self._tower.layers
        self._vit = PromptableViT.of(model.visual)
        if self._tower.has_deep_prompts:
            self.abilities |= {"deep text prompts"}
        if self._vit is not None:
            self.vision_dim, self.vision_layers = self._vit.width, self._vit.layers
            self.abilities |= {"visual prompts", "patch features"}
        self.logit_scale = float(model.logit_scale.detach().float().exp())
        bias = getattr(model, "logit_bias", None)
        self.logit_bias = None if bias is None else float(bias.detach().float())
        self._sentences = sentences(name, words, self._tower)
        self.calls = CallCount()
        self._loaded_sha256 = self.weights_sha256()
        # The same weights mean something else under another activation or another number of heads.
        heads = [getattr(part, "num_heads", 0) for part in model.modules()]
        # A model is the same wherever it is: "cpu" stands where the device once stood.
        parts = [self._loaded_sha256, str(model), heads, precision, "cpu", vars(settings)]
        if self._tower.kind != CAUSAL:
            parts += self._tower.described()
        described = json.dumps([*parts, *filter(None, [probe, words.fingerprint])])
        self._fingerprint = hashlib.sha256(described.encode()).hexdigest()

    @property
    def reads_beginnings_once(self) -> bool:
        return self._tower.prefixes is not None

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def weights_sha256(self) -> str:
        return hash_tensors(chain(self._model.named_parameters(), self._model.named_buffers()))

    # ------------------------------------------------------------------------------------------------ images

    @property
    def image_transform(self) -> Any:
        return self._transform

    def preprocess(self, image: Image.Image) -> Tensor:
        pixels: Tensor = self._transform(image)
        return pixels

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        self.calls.images += len(pixels)
        with full_precision(self.device):
            features: Tensor = self._model.encode_image(pixels.to(self.device, self._dtype))
        return features.float()

    def encode_prompted_images(self, pixels: Tensor, ctx: Tensor, deep: Tensor | None = None) -> PromptedImages:
        if self._vit is None:
            return super().encode_prompted_images(pixels, ctx, deep)
        self.calls.images += len(pixels)
        with full_precision(self.device):
            return self._vit.prompted(pixels.to(self.device, self._dtype), ctx.to(self.device), deep)

    @torch.no_grad()
    def embed_patches(self, pixels: Tensor) -> Tensor:
        if self._vit is None:
            return super().embed_patches(pixels)
        with full_precision(self.device):
            return self._vit.inputs(pixels.to(self.device, self._dtype))

    @torch.no_grad()
    def encode_patches(self, pixels: Tensor) -> Tensor:
        if self._vit is None:
            return super().encode_patches(pixels)
        self.calls.images += len(pixels)
        with full_precision(self.device):
            return self._vit.patches(pixels.to(self.device, self._dtype))

    # ------------------------------------------------------------------------------------------------- texts

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.calls.texts += len(texts)
        parts = [torch.empty(0, self.embed_dim, device=self.device)]
        for start in range(0, len(texts), TEXT_ROWS):
            ids, end = self._sentences.ids(texts[start : start + TEXT_ROWS])
            grouped = None if self._tower.prefixes is None else plain_sentences(ids, end, self._tower.table)
            if grouped is None:
                parts.append(self._tower.encode(self._tower.table(ids), end))
            else:
                parts.append(self._tower.encode_grouped(grouped, TEXT_ROWS))
        return torch.cat(parts)

    def check_text(self, text: str) -> None:
        self._sentences.ids([text])

    def class_tokens(self, classes: Sequence[str], n_ctx: int, position: Position = "end") -> ClassTokens:
        return self._sentences.class_tokens(classes, n_ctx, position)

    def encode_embeddings(self, vectors: Tensor, end: Tensor, deep: DeepContext | None = None) -> Tensor:
        self.calls.texts += len(end)
        vectors = self._tower.cut(vectors, end)
        if len(vectors) <= TEXT_ROWS:
            return self._tower.encode(vectors, end, deep)
        parts = []
        for start in range(0, len(vectors), TEXT_ROWS):
            rows = slice(start, start + TEXT_ROWS)
            part = None if deep is None else deep.select(rows)
            again = torch.is_grad_enabled() and (vectors.requires_grad or deep is not None)
            if again:
                arguments = (vectors[rows], end[rows], part)
                parts.append(checkpoint(self._tower.encode, *arguments, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._tower.encode(vectors[rows], end[rows], part))
        return torch.cat(parts)

    def _encode_jointly(self, batch: Sequence[PromptedText]) -> Tensor:
        """Encode a batch; a prefix that its rows share passes through the tower once, where that saves work."""
        grouped = None if self._tower.prefixes is None else prompted_sentences(batch, self.device)
        if grouped is None:
            return super()._encode_jointly(batch)
        self.calls.texts += len(grouped.end)
        return self._tower.encode_grouped(grouped, TEXT_ROWS)

    def embed_words(self, text: str) -> Tensor:
        return self._sentences.embed_words(text)

    def token_embeddings(self) -> TokenEmbeddings:
        return self._sentences.token_embeddings()


def sentences(name: str, words: TextTokenizer, tower: TextTower) -> Sentences:
    """Return the sentences of ``tower``, which are read where its kind says."""
    limit = (
        min(tower.context_length, words.limit or tower.context_length) if tower.kind.is_cut else tower.context_length
    )
    read = None if isinstance(tower, MaskedTower) else tower.read
    return Sentences(
        name, words.encode, tower.table, words.frame, limit, words.words, words.follow, read, tower.kind.is_cut
    )


def _probe(name: str, transform: Callable[[Image.Image], Tensor]) -> str:
    """Return the SHA-256 of a user's ``transform`` of a fixed picture.

    Raises:
        BackboneError: The transform is random.
    """
    ramp = np.arange(320 * 320 * 3, dtype=np.uint32).reshape(320, 320, 3)
    picture = Image.fromarray((ramp * 2654435761 >> 13).astype(np.uint8))
    try:
        digests = {hash_tensors([("", torch.as_tensor(transform(picture)))]) for _ in range(DRAWS)}
    except Exception as error:  # a user's code may raise anything
        raise BackboneError(
            f"the transform of backbone '{name}' makes no tensor of an image: {reason(error)}"
        ) from error
    if len(digests) > 1:
        raise BackboneError(
            f"the transform of backbone '{name}' gives something else each time: give that of evaluation, not of "
            "training"
        )
    return digests.pop()
