"""What promptfed asks of a frozen vision-language model."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from promptfed.errors import BackboneError

Position = Literal["end", "middle", "front"]
"""Where the class name stands among the context tokens: after, between or before them (CoOp's names)."""

Ability = Literal["visual prompts", "deep text prompts", "patch features"]
"""What some backbones can do and others cannot."""

JOINT_ROWS = 256
"""Texts of several requests that go through the text tower in one pass; more need more passes."""


@dataclass
class CallCount:
    """How many images and texts went through the towers since loading (each item of a batch counts)."""

    images: int = 0
    texts: int = 0


@dataclass(frozen=True)
class ClassTokens:
    """Class names made ready for a learned context, with all that never changes already looked up.

    ``embeddings`` ``(classes, length, dim)``: token embeddings with zeros where the context goes, cut after the
    longest end token. ``slots`` ``(classes, n_ctx)``: the context's positions in each row. ``end`` ``(classes,)``:
    position of the last real token. Positions after ``end`` are padding.
    """

    embeddings: Tensor
    slots: Tensor
    end: Tensor

    @property
    def n_ctx(self) -> int:
        """The number of context tokens."""
        return self.slots.shape[1]

    def with_context(self, ctx: Tensor) -> Tensor:
        """Put ``ctx`` ``(n_ctx, dim)`` or ``(classes, n_ctx, dim)`` in place: ``(classes, length, dim)``."""
        classes, _, dim = self.embeddings.shape
        filled = ctx if ctx.dim() == 3 else ctx.expand(classes, -1, -1)
        index = self.slots[:, :, None].expand(-1, -1, dim)
        return self.embeddings.scatter(1, index, filled.to(self.embeddings.dtype))

    def select(self, classes: Sequence[int]) -> ClassTokens:
        """Return the rows of some classes, in the given order."""
        rows = torch.as_tensor(list(classes), device=self.slots.device)
        return ClassTokens(self.embeddings[rows], self.slots[rows], self.end[rows])


@dataclass(frozen=True)
class TokenEmbeddings:
    """The words of a text tower's tokenizer and ``vectors`` ``(words, text_dim)`` float32 on the CPU, their embeddings.

    A hyphen at its end or beginning marks a piece of a word. No two words have the same vector.
    """

    words: tuple[str, ...]
    vectors: Tensor

    def __repr__(self) -> str:
        return f"TokenEmbeddings({len(self.words)} words, {tuple(self.vectors.shape)})"


@dataclass(frozen=True)
class DeepContext:
    """Contexts that stand inside of a text tower.

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
        """``hidden`` ``(rows, length, dim)``, the input of ``block``, its slots replaced where it has a context."""
        number = block - self.first
        if not 0 <= number < len(self.vectors):
            return hidden
        rows, _, dim = hidden.shape
        index = self.slots[:, :, None].expand(-1, -1, dim)
        return hidden.scatter(1, index, self.vectors[number].to(hidden.dtype).expand(rows, -1, -1))


@dataclass(frozen=True)
class PromptedImages:
    """What a prompted image tower makes of a batch.

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


class Backbone(ABC):
    """A frozen model with an image and a text tower that share a space of ``embed_dim`` dimensions.

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
    context_length: int
    device: torch.device
    calls: CallCount

    def __repr__(self) -> str:
        return f"<backbone {self.name}: text {self.text_dim}, joint {self.embed_dim} dimensions, on {self.device}>"

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex SHA-256 of weights, precision and preprocessing, fixed at loading: the key of cached features."""

    @abstractmethod
    def weights_sha256(self) -> str:
        """Hex SHA-256 of all frozen parameters and buffers as they are now, to prove that nothing moved."""

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Tensor:
        """Return an RGB image as the tensor ``(3, height, width)`` that ``encode_images`` takes."""

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> Tensor:
        """``(batch, 3, height, width)`` -> ``(batch, embed_dim)``; counts ``batch`` image calls; no gradient."""

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Plain sentences -> ``(texts, embed_dim)``; counts text calls; no gradient.

        Raises BackboneError for a text that does not fit the context length.
        """

    def check_text(self, text: str) -> None:
        """Raise BackboneError if ``text`` does not fit the context length."""
        self.encode_text([text])

    @abstractmethod
    def class_tokens(self, classes: Sequence[str], n_ctx: int, position: Position = "end") -> ClassTokens:
        """Tokenise "<n_ctx slots> {class}." for every class (underscores become spaces).

        Raises BackboneError if context and name together exceed the context length.
        """

    @abstractmethod
    def encode_embeddings(self, vectors: Tensor, end: Tensor, deep: DeepContext | None = None) -> Tensor:
        """Token embeddings ``(rows, length, dim)``, the last real one at ``end`` ``(rows,)`` -> ``(rows, embed_dim)``.

        Counts text calls; differentiable in ``vectors`` and ``deep``.
        """

    def encode_prompted_text(self, ctx: Tensor, tokens: ClassTokens, deep: Tensor | None = None) -> Tensor:
        """One PromptedText: ``(classes, embed_dim)`` float32, differentiable in the contexts."""
        return self.encode_prompted_texts([PromptedText(ctx, tokens, deep)])[0]

    def encode_prompted_texts(self, texts: Sequence[PromptedText]) -> list[Tensor]:
        """Return features ``(classes, embed_dim)`` of each of ``texts``.

        Those with deep contexts of one shape and place share passes, and so do those without.
        Sharing changes results by rounding only: rows do not see each other, and padding is not seen either.
        """
        found: dict[int, Tensor] = {}
        waiting: dict[tuple[torch.Size, int] | None, list[int]] = {}
        for number, text in enumerate(texts):
            together = waiting.setdefault(None if text.deep is None else (text.deep.shape, text.first), [])
            if together and sum(len(texts[i].tokens.end) for i in (*together, number)) > JOINT_ROWS:
                found.update(self._encode_jointly(texts, together))
                together.clear()
            together.append(number)
        for together in waiting.values():
            found.update(self._encode_jointly(texts, together))
        return [found[number] for number in range(len(texts))]

    def _encode_jointly(self, texts: Sequence[PromptedText], chosen: Sequence[int]) -> dict[int, Tensor]:
        asked = [texts[i] for i in chosen]
        filled = [text.tokens.with_context(text.ctx.to(self.device)) for text in asked]
        longest = max(vectors.shape[1] for vectors in filled)
        padded = [F.pad(vectors, (0, 0, 0, longest - vectors.shape[1])) for vectors in filled]
        ends, sizes = torch.cat([text.tokens.end for text in asked]), [len(vectors) for vectors in filled]
        deep = [
            text.deep.to(self.device)[:, None].expand(-1, size, -1, -1)
            for text, size in zip(asked, sizes, strict=True)
            if text.deep is not None
        ]
        context = None
        if deep:
            context = DeepContext(torch.cat(deep, 1), torch.cat([t.tokens.slots for t in asked]), asked[0].first)
        features = self.encode_embeddings(torch.cat(padded), ends, context)
        return dict(zip(chosen, features.split(sizes), strict=True))

    def encode_prompted_images(self, pixels: Tensor, ctx: Tensor, deep: Tensor | None = None) -> PromptedImages:
        """Encode images as they are seen with visual prompt tokens.

        ``ctx`` ``(n, vision_dim)`` joins the class and patch tokens at the input of the ViT, ``deep``
        ``(depth - 1, n, vision_dim)`` replaces those tokens at the input of blocks 1, 2, ...
        Counts image calls; differentiable in the prompts. Only for backbones with visual prompts.
        """
        raise BackboneError(f"backbone '{self.name}' has no visual prompts: use tiny or an open_clip ViT")

    def encode_patches(self, pixels: Tensor) -> Tensor:
        """Features of places in the images, in the space of the pooled ones: ``(batch, places, embed_dim)``.

        Counts image calls; no gradient. Only for backbones with patch features.
        """
        raise BackboneError(f"backbone '{self.name}' has no patch features: use tiny, lit or an open_clip ViT")

    @abstractmethod
    def embed_words(self, text: str) -> Tensor:
        """Token embeddings of plain words, without start and end tokens: ``(tokens, text_dim)`` float32."""

    def token_embeddings(self) -> TokenEmbeddings:
        """Return the tokenizer's words with their embeddings.

        Raises:
            BackboneError: This backbone does not tell its words.
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
    """Hex SHA-256 over names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
