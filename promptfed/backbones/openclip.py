"""Backbones of the open_clip library: any CLIP whose text tower is open_clip's own causal transformer.

Causal attention never looks ahead, so what follows the end token cannot change the text feature: sequences are
cut after the longest end token, which is exact and saves most of CLIP's 77 positions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
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
from promptfed.backbones.device import pick_device, pick_dtype
from promptfed.backbones.openclip_weights import create_from_file, split_options, weights_path
from promptfed.backbones.shared_prefix import SharedPrefixTower, plain_sentences, prompted_sentences
from promptfed.backbones.tokenization import Sentences, open_clip_words
from promptfed.backbones.vision_transformer import PromptableViT
from promptfed.errors import BackboneError, reason, unknown_name
from promptfed.printable import printable

if TYPE_CHECKING:
    from open_clip import CLIP, CustomTextCLIP
    from open_clip.tokenizer import SimpleTokenizer

PREFIX = "open_clip:"
SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""open_clip's own words for the precisions."""

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
    Raises BackboneError if the text tower or the tokenizer is of another kind.
    """

    def __init__(
        self,
        name: str,
        model: CLIP | CustomTextCLIP,
        tokenizer: SimpleTokenizer,
        *,
        device: str = "cpu",
        precision: str = "float32",
        transform: Callable[[Image.Image], Tensor] | None = None,
    ) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        self.name = name
        self.device, self._dtype = pick_device(device), pick_dtype(precision)
        self._tower = _text_tower(name, model)
        _check_tokenizer(name, tokenizer)
        self._model: Any = freeze(model).to(self.device)
        settings = PreprocessCfg(**model.visual.preprocess_cfg)
        default_transform = image_transform_v2(settings, is_train=False)
        probe = "" if transform is None else _probe(name, transform)
        if probe and probe == _probe(name, default_transform):  # the model's own: its features have the same key
            transform, probe = None, ""
        self._transform = transform or default_transform

        self.text_dim = int(self._tower.positional_embedding.shape[1])
        self.context_length = int(self._tower.positional_embedding.shape[0])
        projection = self._tower.text_projection
        self.embed_dim = self.text_dim if projection is None else _output_width(projection)
        self.text_layers = len(self._tower.transformer.resblocks)
        self._vit = PromptableViT.of(model.visual)
        self.abilities = frozenset({"deep text prompts"})
        if self._vit is not None:
            self.vision_dim, self.vision_layers = self._vit.width, self._vit.layers
            self.abilities |= {"visual prompts", "patch features"}
        self.logit_scale = float(model.logit_scale.detach().float().exp())
        start, stop = tokenizer.sot_token_id, tokenizer.eot_token_id
        table = self._tower.token_embedding
        words = partial(open_clip_words, tokenizer)
        self._sentences = Sentences(name, tokenizer.encode, table, start, stop, self.context_length, words)
        self.calls = CallCount()
        self._loaded_sha256 = self.weights_sha256()
        # The same weights mean something else under another activation or another number of heads.
        heads = [getattr(part, "num_heads", 0) for part in model.modules()]
        parts = [self._loaded_sha256, str(model), heads, precision, self.device.type, vars(settings)]
        described = json.dumps([*parts, *filter(None, [probe, getattr(tokenizer, "fingerprint", "")])])
        self._fingerprint = hashlib.sha256(described.encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def weights_sha256(self) -> str:
        return hash_tensors(chain(self._model.named_parameters(), self._model.named_buffers()))

    # ------------------------------------------------------------------------------------------------ images

    def preprocess(self, image: Image.Image) -> Tensor:
        pixels: Tensor = self._transform(image)
        return pixels

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        self.calls.images += len(pixels)
        features: Tensor = self._model.encode_image(pixels.to(self.device, self._dtype))
        return features.float()

    def encode_prompted_images(self, pixels: Tensor, ctx: Tensor, deep: Tensor | None = None) -> PromptedImages:
        if self._vit is None:
            return super().encode_prompted_images(pixels, ctx, deep)
        self.calls.images += len(pixels)
        return self._vit.prompted(pixels.to(self.device, self._dtype), ctx.to(self.device), deep)

    @torch.no_grad()
    def encode_patches(self, pixels: Tensor) -> Tensor:
        if self._vit is None:
            return super().encode_patches(pixels)
        self.calls.images += len(pixels)
        return self._vit.patches(pixels.to(self.device, self._dtype))

    # ------------------------------------------------------------------------------------------------- texts

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.calls.texts += len(texts)
        parts = [torch.empty(0, self.embed_dim, device=self.device)]
        for start in range(0, len(texts), TEXT_ROWS):
            ids, end = self._sentences.ids(texts[start : start + TEXT_ROWS])
            sentences = plain_sentences(ids, end, self._tower.token_embedding)
            if self._shared_tower is None or sentences is None:
                parts.append(self._forward(self._tower.token_embedding(ids), end))
            else:
                parts.append(self._features(self._shared_tower.read(sentences, TEXT_ROWS)))
        return torch.cat(parts)

    def check_text(self, text: str) -> None:
        self._sentences.ids([text])

    def class_tokens(self, classes: Sequence[str], n_ctx: int, position: Position = "end") -> ClassTokens:
        return self._sentences.class_tokens(classes, n_ctx, position)

    def encode_embeddings(self, vectors: Tensor, end: Tensor, deep: DeepContext | None = None) -> Tensor:
        self.calls.texts += len(end)
        vectors = vectors[:, : int(end.max()) + 1]
        if len(vectors) <= TEXT_ROWS:
            return self._forward(vectors, end, deep)
        parts = []
        for start in range(0, len(vectors), TEXT_ROWS):
            rows = slice(start, start + TEXT_ROWS)
            part = None if deep is None else deep.select(rows)
            again = torch.is_grad_enabled() and (vectors.requires_grad or deep is not None)
            if again:
                arguments = (vectors[rows], end[rows], part)
                parts.append(checkpoint(self._forward, *arguments, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._forward(vectors[rows], end[rows], part))
        return torch.cat(parts)

    def _encode_jointly(self, batch: Sequence[PromptedText]) -> Tensor:
        """Encode a batch; a prefix that its rows share passes through the tower once, where that saves work."""
        sentences = None if self._shared_tower is None else prompted_sentences(batch, self.device)
        if self._shared_tower is None or sentences is None:
            return super()._encode_jointly(batch)
        self.calls.texts += len(sentences.end)
        return self._features(self._shared_tower.read(sentences, TEXT_ROWS))

    @cached_property
    def _shared_tower(self) -> SharedPrefixTower | None:
        return SharedPrefixTower.of(self._tower)

    def embed_words(self, text: str) -> Tensor:
        return self._sentences.embed_words(text)

    def token_embeddings(self) -> TokenEmbeddings:
        return self._sentences.token_embeddings()

    def _forward(self, vectors: Tensor, end: Tensor, deep: DeepContext | None = None) -> Tensor:
        """Map ``(rows, length, dim)``, read at ``end`` ``(rows,)``, to ``(rows, embed_dim)`` float32."""
        tower, length = self._tower, vectors.shape[1]
        dtype = tower.transformer.get_cast_dtype()
        x = vectors.to(dtype) + tower.positional_embedding[:length].to(dtype)
        mask = tower.attn_mask[:length, :length]
        if deep is None:
            x = tower.transformer(x, attn_mask=mask)
        else:
            for number, block in enumerate(tower.transformer.resblocks):
                x = block(deep.put(x, number), attn_mask=mask)
        return self._features(x[torch.arange(len(x), device=x.device), end])

    def _features(self, hidden: Tensor) -> Tensor:
        """Project last hidden states ``(rows, dim)`` at the end tokens to ``(rows, embed_dim)`` float32."""
        x = self._tower.ln_final(hidden)
        projection = self._tower.text_projection
        if isinstance(projection, nn.Linear):
            x = projection(x)
        elif projection is not None:
            x = x @ projection
        features: Tensor = x.float()
        return features


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


def _output_width(projection: nn.Linear | Tensor) -> int:
    return projection.out_features if isinstance(projection, nn.Linear) else int(projection.shape[1])


def _text_tower(name: str, model: nn.Module) -> Any:
    """Return the part of ``model`` with the text transformer, if its feature is a causal transformer's end token."""
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    kind = type(model).__name__
    if isinstance(model, CLIP):
        tower, pool = model, model.text_pool_type
    elif isinstance(model, CustomTextCLIP) and isinstance(model.text, TextTransformer):
        tower, pool, kind = model.text, model.text.pool_type, "TextTransformer"
    else:
        tower, pool = None, ""
    if tower is None or pool != "argmax" or tower.attn_mask is None or getattr(tower, "cls_emb", None) is not None:
        raise BackboneError(
            f"backbone '{name}' has a text tower promptfed cannot prompt ({kind}, pooling '{pool}'): "
            "only causal open_clip transformers read at the end token work, such as open_clip:ViT-B-16/openai"
        )
    return tower


def _check_tokenizer(name: str, tokenizer: object) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    if not isinstance(tokenizer, SimpleTokenizer):
        raise BackboneError(
            f"backbone '{name}' uses the tokenizer {type(tokenizer).__name__}; only CLIP's own SimpleTokenizer works: "
            "choose a model such as open_clip:ViT-B-16/openai"
        )


# -------------------------------------------------------------------------------------------------- loading


def load_openclip(name: str, *, device: str = "cpu", precision: str = "float32") -> OpenClipBackbone:
    """Load the backbone ``open_clip:MODEL/WEIGHTS``.

    WEIGHTS is a tag that open_clip lists for MODEL, or the path of a checkpoint or of a folder with one, with
    ``?mean=0.5&std=0.5&resize=squash&interpolation=bilinear&activation=quick_gelu`` as needed. Checkpoints, TorchScript
    archives too, are loaded without running code.

    Raises:
        ConfigError: A name is unknown.
        BackboneError: The weights are not cached while offline, missing, of another shape, or not plain tensors.
    """
    pick_device(device)
    pick_dtype(precision)
    architecture, _, weights = name.removeprefix(PREFIX).partition("/")

    import open_clip

    if architecture not in open_clip.list_models():
        raise unknown_name("open_clip model", architecture, open_clip.list_models())
    known_tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not weights:
        raise BackboneError(
            f"backbone '{name}' names no weights: write {PREFIX}{architecture}/WEIGHTS with the path of a checkpoint "
            f"or one of {', '.join(known_tags) or '(open_clip lists none)'}"
        )
    tokenizer = open_clip.get_tokenizer(architecture)
    path = weights_path(weights)
    if path is not None:
        return OpenClipBackbone(
            name,
            _from_file(name, architecture, weights, path, precision),
            tokenizer,
            device=device,
            precision=precision,
        )
    tag = open_clip.get_pretrained_cfg(architecture, weights)
    if not tag:
        raise unknown_name(f"open_clip weights for {architecture}", weights, known_tags)
    _fetch(name, tag)
    # Plain architecture names with tags trained on QuickGELU give wrong features unless it is switched on.
    model = _create(name, architecture, weights, bool(tag.get("quick_gelu", False)), precision)
    return OpenClipBackbone(name, model, tokenizer, device=device, precision=precision)


def _from_file(name: str, architecture: str, weights: str, path: Path, precision: str) -> nn.Module:
    """Return the model with the weights in the file or folder ``path``.

    Raises:
        BackboneError: The weights do not fit; the message lists all that is wrong.
    """
    options = split_options(weights)[1]
    if not path.exists():
        raise BackboneError(
            f"backbone '{printable(name, 300)}': checkpoint file '{printable(path, 300)}' does not exist; "
            "check the path"
        )
    try:
        return create_from_file(architecture, path, options, SHORT[precision])
    except BackboneError:
        raise
    except Exception as error:  # open_clip and torch each raise their own for tensors that do not fit
        raise BackboneError(
            f"backbone '{printable(name, 300)}': '{printable(path, 300)}' does not load as weights of {architecture}: "
            f"{reason(error)}; give a state dict saved by torch.save or safetensors for exactly this architecture"
        ) from error


def _fetch(name: str, tag: dict[str, object]) -> None:
    """Download the weights of ``tag`` into open_clip's cache.

    Raises:
        BackboneError: That fails, as it does offline.
    """
    from open_clip.pretrained import download_pretrained

    try:
        download_pretrained(tag)
    except Exception as error:  # the hub raises many kinds, from connection errors to missing files
        raise BackboneError(
            f"the weights of backbone '{name}' are not cached and could not be downloaded; is this machine offline? "
            f"({reason(error)}) The backbones 'tiny' and 'lit' need no download."
        ) from error


def _create(name: str, architecture: str, weights: str, quick_gelu: bool, precision: str) -> nn.Module:
    """Return the model with its weights.

    Building draws random numbers first; the global generator is restored.
    """
    import open_clip

    try:
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = open_clip.create_model(
                architecture,
                pretrained=weights,
                precision=SHORT[precision],
                force_quick_gelu=quick_gelu,
                weights_only=True,
            )
    except Exception as error:  # torch, safetensors and pickle each raise their own for a file that does not fit
        raise BackboneError(
            f"backbone '{name}': the weights '{weights}' do not load as those of {architecture}: {reason(error)}"
        ) from error
    return model
