"""Backbones whose text tower is cached on disk, for processes that start anew for each task.

If the cache holds all image features, a client's work touches text alone. So the first full load of an open_clip
backbone writes its text tower, the numbers that go with it and the token ids of the texts so far; later loads take
only these, and neither read the image tower nor import the library. A cache miss loads the whole model. Results have
the same bits either way, which is checked before anything is cached.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from promptfed.backbones import load_backbone
from promptfed.backbones.base import (
    Backbone,
    CallCount,
    ClassTokens,
    Position,
    PromptedImages,
    freeze,
    hash_tensors,
)
from promptfed.backbones.clip_hf_config import PREFIX as CLIP_HF
from promptfed.backbones.device import pick_device, pick_dtype
from promptfed.backbones.lazy import CACHE_MISS, LazyBackbone, check_same_bits, folder_for
from promptfed.backbones.openclip import PREFIX, OpenClipBackbone
from promptfed.backbones.openclip_loading import HUB, folder_of
from promptfed.backbones.text_tower_kinds import CAUSAL
from promptfed.backbones.text_towers import CausalTower
from promptfed.backbones.tokenization import Frame, Sentences
from promptfed.files.atomic import write_bytes
from promptfed.files.sealed_json import opened_json, sealed_json
from promptfed.readers.files import read_bytes
from promptfed.readers.json_reader import LIMITS, parse_json
from promptfed.readers.tensors import MOST_BYTES, parse_tensors

LOG = logging.getLogger(__name__)
FORMAT = 2
TOWER, ABOUT, TOKENS, WORDS = "tower.safetensors", "about.json", "tokens.json", "words.json"
TEXTS = "texts"
"""Key of the token ids in their file: text -> ids."""
NUMBERS = (
    "name", "text_dim", "embed_dim", "vision_dim", "text_layers", "vision_layers", "logit_scale", "logit_bias",
    "context_length",
)  # fmt: skip
META = "meta"
"""Modules are made without memory and without drawing numbers: the weights are put in afterwards."""
PROBES = ("a photo of a cat", "an icon of a pin cushion, and more words.")


def load_text_tower(name: str, *, device: str = "cpu", precision: str = "float32") -> Backbone:
    """Do as ``load_backbone``, but load the image tower only for an image if the text tower is cached."""

    def whole() -> Backbone:
        return load_backbone(name, device=device, precision=precision)

    if name == "lit":
        from promptfed.backbones.text_tower_cache_lit import load_remembered_lit

        return load_remembered_lit(whole, device, precision)
    folder = _folder(name, device, precision)
    if folder is None:
        return whole()
    try:
        return RememberedBackbone(folder, whole, device, precision)
    except CACHE_MISS as error:
        LOG.debug("nothing remembered in %s: %s", folder, error)
    backbone = whole()
    if isinstance(backbone, OpenClipBackbone) and backbone._tower.kind == CAUSAL and backbone._sentences.follow is None:
        _remember(folder, backbone, whole, device, precision)
    return backbone


class RememberedBackbone(LazyBackbone[OpenClipBackbone], OpenClipBackbone):
    """Text side of an open_clip backbone from ``folder``; ``whole`` loads the rest for the first image.

    Raises:
        Exception: One of ``CACHE_MISS``: the folder holds no such thing.
    """

    kind = OpenClipBackbone

    def __init__(self, folder: Path, whole: Callable[[], Backbone], device: str, precision: str) -> None:
        about = opened_json(read_bytes(folder / ABOUT, LIMITS.size))
        blob = read_bytes(folder / TOWER, MOST_BYTES)
        if about["format"] != FORMAT or hashlib.sha256(blob).hexdigest() != about["tower_sha256"]:
            raise ValueError("another format, or damaged")
        self._folder, self._load = folder, whole
        self.device, self._dtype = pick_device(device), pick_dtype(precision)
        for number in NUMBERS:
            setattr(self, number, about[number])
        self.abilities = frozenset(about["abilities"])
        module = CachedTower(parse_tensors(blob), about["heads"], about["quick_gelu"])
        self._tower = CausalTower(freeze(module).to(self.device), "argmax")
        self._fingerprint = about["fingerprint"]
        self._tokens, self._has_new_tokens = _read_tokens(folder), False
        frame, tower = Frame((about["start"],), (about["stop"],)), self._tower
        self._sentences = Sentences(
            self.name, self._ids, tower.table, frame, self.context_length, self._words, read=tower.read
        )
        self.calls = CallCount()
        self._loaded_sha256 = self.weights_sha256()

    def weights_sha256(self) -> str:
        """Return the hash of the text tower alone."""
        return hash_tensors(sorted(self._tower.module.state_dict().items()))

    def embed_patches(self, pixels: Tensor) -> Tensor:
        return self.whole().embed_patches(pixels)

    def encode_prompted_images(self, pixels: Tensor, ctx: Tensor, deep: Tensor | None = None) -> PromptedImages:
        return self.whole().encode_prompted_images(pixels, ctx, deep)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        features = super().encode_text(texts)
        self._keep_tokens()
        return features

    def class_tokens(self, classes: Sequence[str], n_ctx: int, position: Position = "end") -> ClassTokens:
        tokens = super().class_tokens(classes, n_ctx, position)
        self._keep_tokens()
        return tokens

    def embed_words(self, text: str) -> Tensor:
        vectors = super().embed_words(text)
        self._keep_tokens()
        return vectors

    def _ids(self, text: str) -> list[int]:
        """Return token ids, which are cached too: the tokenizer comes with the library."""
        if text not in self._tokens:
            self._tokens[text] = list(self.whole()._sentences.encode(text))
            self._has_new_tokens = True
        return self._tokens[text]

    def _keep_tokens(self) -> None:
        """Write the token ids of new texts, all at once: a write for each would take longer than the tower."""
        if not self._has_new_tokens:
            return
        self._has_new_tokens = False
        try:
            tokens = {**_read_tokens(self._folder), **self._tokens}
            write_bytes(self._folder / TOKENS, sealed_json({TEXTS: tokens}))
        except CACHE_MISS as error:
            LOG.debug("token ids are not kept: %s", error)

    def _words(self) -> Mapping[int, str]:
        """Return the tokenizer's words, which are cached too: the library takes seconds to load."""
        try:
            words = opened_json(read_bytes(self._folder / WORDS, LIMITS.size))["words"]
            return {k: word.encode().decode("unicode_escape") for k, word in enumerate(words) if word is not None}
        except CACHE_MISS:
            words = self.whole()._sentences.words()
            _keep_words(self._folder, words)
            return words


# -------------------------------------------------------------------------------------------- the text tower


class CachedTower(nn.Module):
    """CLIP's causal text transformer in plain torch, with open_clip's names for its tensors."""

    def __init__(self, tensors: dict[str, Tensor], heads: int, quick_gelu: bool) -> None:
        super().__init__()
        vocabulary, width = tensors["token_embedding.weight"].shape
        layers = 1 + max(int(key.split(".")[2]) for key in tensors if key.startswith("transformer.resblocks."))
        self.token_embedding = nn.Embedding(vocabulary, width, _weight=tensors["token_embedding.weight"])
        self.positional_embedding = nn.Parameter(tensors["positional_embedding"])
        self.transformer = Transformer(width, heads, layers, quick_gelu)
        self.ln_final = LayerNorm(width, device=META)
        self.text_projection = nn.Parameter(tensors["text_projection"])
        self.register_buffer("attn_mask", tensors["attn_mask"])
        self.load_state_dict(tensors, strict=True, assign=True)


class Transformer(nn.Module):
    """Sequence of blocks."""

    def __init__(self, width: int, heads: int, layers: int, quick_gelu: bool) -> None:
        super().__init__()
        self.resblocks: Any = nn.ModuleList(Block(width, heads, quick_gelu) for _ in range(layers))

    def get_cast_dtype(self) -> torch.dtype:
        """Return the type of the large matrices, which activations are cast to."""
        dtype: torch.dtype = self.resblocks[0].mlp.c_fc.weight.dtype
        return dtype

    def forward(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x, attn_mask=attn_mask)
        return x


class Block(nn.Module):
    """Residual attention block: attention and a two-layer network."""

    def __init__(self, width: int, heads: int, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width, device=META)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True, device=META)
        self.ln_2 = LayerNorm(width, device=META)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            c_fc=nn.Linear(width, 4 * width, device=META),
            gelu=QuickGELU() if quick_gelu else nn.GELU(),
            c_proj=nn.Linear(4 * width, width, device=META),
        )
        self.mlp: Any = nn.Sequential(layers)

    def forward(self, x: Tensor, attn_mask: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=attn_mask.to(normed.dtype))[0]
        output: Tensor = x + self.mlp(self.ln_2(x))
        return output


class LayerNorm(nn.LayerNorm):
    """Layer normalisation in the type of its input, whatever the type of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(x.dtype)


class QuickGELU(nn.Module):
    """OpenAI's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


# --------------------------------------------------------------------------------------------------- on disk


def _folder(name: str, device: str, precision: str) -> Path | None:
    """Return the cache folder of ``name``; other weights and other versions have other folders."""
    if name == "tiny":
        config = parse_json((files("promptfed.backbones.tiny_weights") / "config.json").read_bytes())
        weights: Any = config["sha256"]
    elif name.startswith(PREFIX) and not name.startswith(f"{PREFIX}{HUB}"):  # a repository may change
        path, weights = folder_of(name), name
        if path is not None and path.exists():
            weights = [name, _statuses(path)]
    elif name.startswith(CLIP_HF) and (folder := Path(name.removeprefix(CLIP_HF)).expanduser()).is_dir():
        weights = [name, _statuses(folder)]
    else:
        return None
    versions = [version(package) for package in ("promptfed", "torch", "open_clip_torch")]
    return folder_for([FORMAT, name, weights, str(pick_device(device)), precision, versions])


def _statuses(path: Path) -> list[tuple[str, int, int]]:
    """Return what tells that the file or folder ``path`` has changed."""
    files_here = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files_here]


def _read_tokens(folder: Path) -> dict[str, list[int]]:
    """Return the token ids of the texts so far. Raises one of ``CACHE_MISS``."""
    texts: dict[str, list[int]] = opened_json(read_bytes(folder / TOKENS, LIMITS.size))[TEXTS]
    return texts


def _keep_words(folder: Path, words: Mapping[int, str]) -> None:
    """Write the words of a tokenizer by their ids, control characters escaped; nothing where the disk refuses."""
    count = max(words, default=-1) + 1
    escaped = [words[k].encode("unicode_escape").decode() if k in words else None for k in range(count)]
    try:
        write_bytes(folder / WORDS, sealed_json({"words": escaped}))
    except CACHE_MISS as error:
        LOG.debug("the words are not kept: %s", error)


def _remember(
    folder: Path, backbone: OpenClipBackbone, whole: Callable[[], Backbone], device: str, precision: str
) -> None:
    """Cache the text side of ``backbone`` if it comes back with the same bits."""
    tower, sentences = backbone._tower.module, backbone._sentences
    prefixes = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
    tensors = {k: v.cpu().contiguous() for k, v in tower.state_dict().items() if k.startswith(prefixes)}
    tensors["attn_mask"] = tower.attn_mask.cpu().contiguous()
    blob = save(tensors)
    block = tower.transformer.resblocks[0]
    about = {
        "format": FORMAT,
        "tower_sha256": hashlib.sha256(blob).hexdigest(),
        "fingerprint": backbone.fingerprint,
        "abilities": sorted(backbone.abilities),
        "heads": getattr(getattr(block, "attn", None), "num_heads", 0),
        "quick_gelu": type(getattr(block.mlp, "gelu", None)).__name__ == "QuickGELU",
        "start": sentences.frame.before[0],
        "stop": sentences.frame.after[0],
        **{number: getattr(backbone, number) for number in NUMBERS},
    }
    tokens = {text: list(sentences.encode(text)) for text in PROBES}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _keep_words(folder, sentences.words())
        write_bytes(folder / TOWER, blob)
        write_bytes(folder / TOKENS, sealed_json({TEXTS: tokens}))
        write_bytes(folder / ABOUT, sealed_json(about))
        check_same_bits(RememberedBackbone(folder, whole, device, precision), backbone, PROBES)
    except CACHE_MISS as error:
        LOG.debug("backbone '%s' is not remembered: %s", backbone.name, error)
        with suppress(OSError):  # what cannot be written cannot be removed either
            for file in (ABOUT, TOKENS, TOWER):
                (folder / file).unlink(missing_ok=True)
