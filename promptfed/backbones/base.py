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

from promptfed.errors import BackboneError

Position = Literal["end", "middle", "front"]
"""Where the class name stands among the context tokens: after, between or before them (CoOp's names)."""


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
        return self.slots.shape[1]

    def with_context(self, ctx: Tensor) -> Tensor:
        """Put ``ctx`` ``(n_ctx, dim)`` or ``(classes, n_ctx, dim)`` in place: ``(classes, length, dim)``."""
        classes, _, dim = self.embeddings.shape
        filled = ctx if ctx.dim() == 3 else ctx.expand(classes, -1, -1)
        index = self.slots[:, :, None].expand(-1, -1, dim)
        return self.embeddings.scatter(1, index, filled.to(self.embeddings.dtype))

    def select(self, classes: Sequence[int]) -> ClassTokens:
        """The rows of some classes, in the given order."""
        rows = torch.as_tensor(list(classes), device=self.slots.device)
        return ClassTokens(self.embeddings[rows], self.slots[rows], self.end[rows])


class Backbone(ABC):
    """A frozen model with an image and a text tower that share a space of ``embed_dim`` dimensions.

    Encoders return float32 on the CPU-or-GPU device of the backbone, *not* normalised: cosine is the caller's.
    ``text_dim`` is the width of one context token; ``logit_scale`` multiplies cosines into logits.
    """

    name: str
    text_dim: int
    embed_dim: int
    logit_scale: float
    context_length: int
    device: torch.device
    calls: CallCount

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hex SHA-256 of weights, precision and preprocessing, fixed at loading: the key of cached features."""

    @abstractmethod
    def weights_sha256(self) -> str:
        """Hex SHA-256 of all frozen parameters and buffers as they are now, to prove that nothing moved."""

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image as the tensor ``(3, height, width)`` that ``encode_images`` takes."""

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> Tensor:
        """``(batch, 3, height, width)`` -> ``(batch, embed_dim)``; counts ``batch`` image calls; no gradient."""

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Plain sentences -> ``(texts, embed_dim)``; counts text calls; no gradient.

        Raises BackboneError for a text that does not fit the context length.
        """

    @abstractmethod
    def class_tokens(self, classes: Sequence[str], n_ctx: int, position: Position = "end") -> ClassTokens:
        """Tokenise "<n_ctx slots> {class}." for every class (underscores become spaces).

        Raises BackboneError if context and name together exceed the context length.
        """

    @abstractmethod
    def encode_prompted_text(self, ctx: Tensor, tokens: ClassTokens) -> Tensor:
        """Context ``(n_ctx, dim)`` or ``(classes, n_ctx, dim)`` -> ``(classes, embed_dim)``, differentiable in ctx."""

    @abstractmethod
    def embed_words(self, text: str) -> Tensor:
        """Token embeddings of plain words, without start and end tokens: ``(tokens, text_dim)`` float32."""

    def verify_frozen(self) -> None:
        """Raises BackboneError if any frozen weight changed since loading."""
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
