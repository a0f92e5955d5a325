"""The interface of frozen vision-language models."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from promptfed.errors import BackboneError

Position = Literal["end", "middle", "front"]
"""Position of the class name: after, between or before the context tokens (CoOp's names)."""

Ability = Literal["visual prompts", "deep text prompts", "patch features"]
"""Abilities that some backbones have."""

JOINT_ROWS = 256
"""Texts of several requests that go through the text tower in one pass; more need more passes."""


@dataclass
class CallCount:
    """Number of images and texts that went through the towers since loading (each item of a batch counts)."""

    images: int = 0
    texts: int = 0


@dataclass(frozen=True)
class ClassTokens:
    """Class names tokenised with room for a learned context, with all constant embeddings looked up.

    ``embeddings`` ``(classes, length, dim)``: token embeddings with zeros where the context goes, cut after the
    longest end token. ``slots`` ``(classes, n_ctx)``: the context's positions in each row. ``end`` ``(classes,)``:
    position of the last real token. Positions after ``end`` are padding.
    """

    embeddings: Tensor
    slots: Tensor
    end: Tensor

    @property
    def n_ctx(self) -> int:
        """Return the number of context tokens."""
        return self.slots.shape[1]

    def with_context(self, ctx: Tensor) -> Tensor:
        """Put ``ctx`` ``(n_ctx, dim)`` or ``(classes, n_ctx, dim)`` in place: ``(classes, length, dim)``."""
        classes, _, dim = self.embeddings.shape
        contexts = ctx if ctx.dim() == 3 else ctx.expand(classes, -1, -1)
        index = self.slots[:, :, None].expand(-1, -1, dim)
        return self.embeddings.scatter(1, index, contexts.to(self.embeddings.dtype))

    @cached_property
    def shared(self) -> int:
        """Return how many first positions are the same in all rows, a context shared by all rows included.

        The last real token of a row is not among them.
        """
        is_slot = torch.zeros(self.embeddings.shape[:2], dtype=torch.bool, device=self.slots.device)
        is_slot.scatter_(1, self.slots, True)
        is_same = (self.embeddings == self.embeddings[:1]).all(-1).all(0) & (is_slot == is_slot[:1]).all(0)
        return min(int(is_same.int().cumprod(0).sum()), int(self.end.min()))

    def select(self, classes: Sequence[int] | Tensor) -> ClassTokens:
        """Return the rows of some classes, in the given order."""
        rows = torch.as_tensor(classes, device=self.slots.device)
        return ClassTokens(self.embeddings[rows], self.slots[rows], self.end[rows])

    def cut(self) -> ClassTokens:
        """Return the same without what is padding in all rows."""
        return ClassTokens(self.embeddings[:, : int(self.end.max()) + 1].contiguous(), self.slots, self.end)


@dataclass(frozen=True)
class TokenEmbeddings:
    """Words of a text tower's tokenizer and their embeddings ``vectors`` ``(words, text_dim)``, float32 on the CPU.

    A hyphen at its end or beginning marks a piece of a word. No two words have the same vector.
    """

    words: tuple[str, ...]
    vectors: Tensor

    def __repr__(self) -> str:
        return f"TokenEmbeddings({len(self.words)} words, {tuple(self.vectors.shape)})"


@dataclass(frozen=True)
class DeepContext:
    """Contexts inside a text tower.

    ``vectors`` ``(depth - 1, n_ctx, dim)``, or row by row ``(depth - 1, rows, n_ctx, dim)``, go into ``slots``
    ``(rows, n_ctx)`` at the input of blocks ``first``, ``first + 1``, ...
    """

    vectors: Tensor
    slots: Tensor
    first: int = 1

    def select(self, rows: slice) -> DeepContext:
        """Return the contexts of some rows."""
        vectors = self.vectors if self.vectors.dim() == 3 else self.vectors[:, rows]
        return DeepContext(vectors, self.slots[rows], self.first)

    def put(self, hidden: Tensor, block: int) -> Tensor:
        """Return the input ``(rows, length, dim)`` of ``block`` with its slots replaced, if it has a context."""
        number = block - self.first
        if not 0 <= number < len(self.vectors):
            return hidden
        rows, _, dim = hidden.shape
        index = self.slots[:, :, None].expand(-1, -1, dim)
        return hidden.scatter(1, index, self.vectors[number].to(hidden.dtype).expand(rows, -1, -1))


@dataclass(frozen=True)
class PromptedImages:
    """Output of a prompted image tower for a batch.

    ``features`` ``(batch, embed_dim)`` are not normalised. ``attention`` ``(batch, n)`` says how much the class token
    attends to each visual prompt token in the last block: a softmax over these tokens, averaged over heads.
    """

    features: Tensor
    attention: Tensor


@dataclass(frozen=True)
class PromptedText:
    """Class names with a context ``(n_ctx, dim)`` or ``(classes, n_ctx, dim)``, to be encoded.

    ``deep`` ``(depth - 1, n_ctx, dim)``: contexts that replace what stands in the slots at the input of blocks
    ``first``, ``first + 1``, ... (counting from 0) of the text tower; for backbones with deep text prompts. With
    ``first`` 0 they also replace ``ctx`` and the positions that were added to it.
    """

    ctx: Tensor
    tokens: ClassTokens
    deep: Tensor | None = None
    first: int = 1

    def key(self) -> tuple[object, ...]:
        """Return what is equal for two texts of the same tokens with contexts of the same values."""
        contexts = [None if t is None else t.detach().cpu().contiguous() for t in (self.ctx, self.deep)]
        values = [None if t is None else (t.shape, t.numpy().tobytes()) for t in contexts]
        return (id(self.tokens), self.first, *values)

    def select(self, classes: Tensor) -> PromptedText:
        """Return the texts of some ``classes`` ``(k,)``, without what is padding in all of them."""
        ctx = self.ctx if self.ctx.dim() == 2 else self.ctx[classes.to(self.ctx.device)]
        return PromptedText(ctx, self.tokens.select(classes).cut(), self.deep, self.first)


class Backbone(ABC):
    """Frozen model with an image and a text tower that share a space of ``embed_dim`` dimensions.

    Encoders return float32 on the CPU-or-GPU device of the backbone, *not* normalised: cosine is the caller's.
    ``text_dim`` is the width of one context token, ``vision_dim`` that of one visual prompt token (0 where the image
    tower cannot be prompted); ``logit_scale`` multiplies cosines into logits.
    """

    name: str
    text_dim: int
    embed_dim: int
    vision_dim: int = 0
    text_layers: int = 0
    """Blocks of the text tower, for deep prompts; ``vision_layers`` likewise."""
    vision_layers: int = 0
    abilities: frozenset[Ability] = frozenset()
    logit_scale: float
    logit_bias: float | None = None
    """What a model that was trained by a sigmoid loss adds to logits; None: a softmax, which no bias changes."""
    context_length: int
    device: torch.device
    calls: CallCount
    library_options: Mapping[str, Any] = MappingProxyType({})
    """What its library must be told, beside the name, to see images as this backbone does; for a bundle's README."""
    is_thread_safe: bool = False
    """Whether ``preprocess`` may run in several threads at once, beside the encoders."""

    def __repr__(self) -> str:
        return f"<backbone {self.name}: text {self.text_dim}, joint {self.embed_dim} dimensions, on {self.device}>"

    @property
    def reads_beginnings_once(self) -> bool:
        """Whether its text tower reads once what several texts begin with."""
        return False

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Return the hex SHA-256 of weights, precision and preprocessing at loading: the key of cached features."""

    @abstractmethod
    def weights_sha256(self) -> str:
        """Return the hex SHA-256 of all frozen parameters and buffers as they are now."""

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Tensor:
        """Return an RGB image as the tensor ``(3, height, width)`` that ``encode_images`` takes."""

    @property
    def image_transform(self) -> Any:
        """The transform of torchvision that ``preprocess`` is; None where it is more than that."""
        return None

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode ``(batch, 3, height, width)`` to ``(batch, embed_dim)``; counts image calls; no gradient."""

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode plain sentences to ``(texts, embed_dim)``; counts text calls; no gradient.

        Raises:
            BackboneError: A text does not fit the context length.
        """

    def check_text(self, text: str) -> None:
        """Raise BackboneError if ``text`` does not fit the context length."""
        self.encode_text([text])

    @abstractmethod
    def class_tokens(self, classes: Sequence[str], n_ctx: int, position: Position = "end") -> ClassTokens:
        """Tokenise "<n_ctx slots> {class}." for every class (underscores become spaces).

        Raises:
            BackboneError: Context and name together exceed the context length.
        """

    @abstractmethod
    def encode_embeddings(self, vectors: Tensor, end: Tensor, deep: DeepContext | None = None) -> Tensor:
        """Encode token embeddings to ``(rows, embed_dim)``; counts text calls.

        Args:
            vectors: ``(rows, length, dim)``; differentiable.
            end: Position of the last real token of each row, ``(rows,)``.
            deep: Contexts at the inputs of later blocks; differentiable.
        """

    def encode_prompted_text(self, ctx: Tensor, tokens: ClassTokens, deep: Tensor | None = None) -> Tensor:
        """Encode one PromptedText to ``(classes, embed_dim)`` float32, differentiable in the contexts."""
        return self.encode_prompted_texts([PromptedText(ctx, tokens, deep)])[0]

    def encode_prompted_texts(self, texts: Sequence[PromptedText]) -> list[Tensor]:
        """Return features ``(classes, embed_dim)`` of each of ``texts``.

        Texts without deep contexts share passes, and so do those with deep contexts of one shape and place. Sharing
        changes results by rounding only: rows do not see each other, and padding is not seen either.
        """
        features: dict[int, Tensor] = {}
        waiting: dict[tuple[torch.Size, int] | None, list[int]] = {}
        for number, text in enumerate(texts):
            batch = waiting.setdefault(None if text.deep is None else (text.deep.shape, text.first), [])
            if batch and sum(len(texts[i].tokens.end) for i in (*batch, number)) > JOINT_ROWS:
                features.update(self._encode_some(texts, batch))
                batch.clear()
            batch.append(number)
        for batch in waiting.values():
            features.update(self._encode_some(texts, batch))
        return [features[number] for number in range(len(texts))]

    def _encode_some(self, texts: Sequence[PromptedText], indices: Sequence[int]) -> dict[int, Tensor]:
        features = self._encode_jointly([texts[i] for i in indices])
        return dict(zip(indices, features.split([len(texts[i].tokens.end) for i in indices]), strict=True))

    def _encode_jointly(self, batch: Sequence[PromptedText]) -> Tensor:
        """Return the features of all rows of some texts ``(rows, embed_dim)``, text after text, from one pass."""
        inputs = [text.tokens.with_context(text.ctx.to(self.device)) for text in batch]
        longest = max(vectors.shape[1] for vectors in inputs)
        padded = [F.pad(vectors, (0, 0, 0, longest - vectors.shape[1])) for vectors in inputs]
        ends, sizes = torch.cat([text.tokens.end for text in batch]), [len(vectors) for vectors in inputs]
        deep = [
            text.deep.to(self.device)[:, None].expand(-1, size, -1, -1)
            for text, size in zip(batch, sizes, strict=True)
            if text.deep is not None
        ]
        context = None
        if deep:
            context = DeepContext(torch.cat(deep, 1), torch.cat([t.tokens.slots for t in batch]), batch[0].first)
        return self.encode_embeddings(torch.cat(padded), ends, context)

    def encode_prompted_images(self, pixels: Tensor, ctx: Tensor, deep: Tensor | None = None) -> PromptedImages:
        """Encode images under visual prompt tokens; counts image calls; differentiable in the prompts.

        Only for backbones with visual prompts.

        Args:
            pixels: ``(batch, 3, height, width)``.
            ctx: ``(n, vision_dim)``, or of each image ``(batch, n, vision_dim)``; joins the class and patch tokens at
                the input of the ViT.
            deep: ``(depth - 1, n, vision_dim)``; replaces those tokens at the input of blocks 1, 2, ...
        """
        raise BackboneError(f"backbone '{self.name}' has no visual prompts: use tiny or an open_clip ViT")

    def embed_patches(self, pixels: Tensor) -> Tensor:
        """Return the patch tokens at the input of the ViT, with their positions: ``(batch, patches, vision_dim)``.

        No block has seen them, so no image call is counted; no gradient. Only for backbones with visual prompts.
        """
        raise BackboneError(f"backbone '{self.name}' has no visual prompts: use tiny or an open_clip ViT")

    def encode_patches(self, pixels: Tensor) -> Tensor:
        """Return features of places in the images, in the space of the pooled ones: ``(batch, places, embed_dim)``.

        Counts image calls; no gradient. Only for backbones with patch features.
        """
        raise BackboneError(f"backbone '{self.name}' has no patch features: use tiny, lit or an open_clip ViT")

    @abstractmethod
    def embed_words(self, text: str) -> Tensor:
        """Return token embeddings of plain words, without start and end tokens: ``(tokens, text_dim)`` float32."""

    def token_embeddings(self) -> TokenEmbeddings:
        """Return the tokenizer's words with their embeddings.

        Raises:
            BackboneError: This backbone does not list its words.
        """
        raise BackboneError(
            f"backbone '{self.name}' does not tell the words of its tokenizer: use tiny, lit or open_clip"
        )

    def verify_frozen(self) -> None:
        """Raise BackboneError if any frozen weight changed since loading."""
        if self.weights_sha256() != self._loaded_sha256:
            raise BackboneError(
                f"backbone '{self.name}' changed during the run: its frozen weights are not what was loaded"
            )

    _loaded_sha256: str


def freeze(module: nn.Module) -> nn.Module:
    """Switch to evaluation mode and forbid gradients to every parameter."""
    return module.eval().requires_grad_(False)


def hash_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return the hex SHA-256 over names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
