"""A client's own features of its examples, without a query to the black box: small vectors of fixed length."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.blackbox.oracles.base import Backend
from promptfed.errors import DataError
from promptfed.examples.base import ImageItem, Item, TextItem

SIDE = 8
"""Pixels along each side of an image made small."""
WORDS = 256
"""Places into which the words of a text are hashed."""
_WORD = re.compile(r"\w+")


class LocalView:
    """Unit vectors ``(size,)`` of examples, each computed once; nothing in it is learned or sent.

    An image is its preprocessed pixels, made small, less its mean colour: ``channels * SIDE^2`` numbers. A text is its
    words and pairs of words, hashed into ``WORDS`` signed counts (so that parties need not agree on a vocabulary).
    """

    def __init__(self, backend: Backend, images: bool) -> None:
        self.backend, self.images = backend, images
        self.size = WORDS
        if images:
            assert backend.pixel_shape is not None, "a view of images is for oracles with pixel prompts"
            self.size = backend.pixel_shape[0] * SIDE**2
        self._vectors: dict[str, Tensor] = {}

    def __call__(self, items: Sequence[Item]) -> Tensor:
        """Return ``(items, size)`` float32.

        Raises:
            DataError: Examples are of the other kind.
        """
        for item in items:
            if item.content_id() not in self._vectors:
                self._vectors[item.content_id()] = F.normalize(self._look(item), dim=0)
        return torch.stack([self._vectors[item.content_id()] for item in items])

    def _look(self, item: Item) -> Tensor:
        if self.images and isinstance(item, ImageItem):
            small = F.adaptive_avg_pool2d(self.backend.pixels([item])[0].float(), SIDE)
            return (small - small.mean((1, 2), keepdim=True)).flatten()
        if not self.images and isinstance(item, TextItem):
            return hashed_words(item.text, self.size)
        kinds = "an image" if self.images else "a text"
        raise DataError(
            f"{item.name} is not {kinds}, which is what prompts for oracle '{self.backend.name}' are made for"
        )


def hashed_words(text: str, size: int) -> Tensor:
    """Return ``(size,)``: each word and each pair of neighbours adds +1 or -1 at the index of its CRC-32."""
    words = _WORD.findall(text.lower())
    counts = torch.zeros(size)
    for term in (*words, *(f"{first} {second}" for first, second in pairwise(words))):
        code = zlib.crc32(term.encode())
        counts[code % size] += 1.0 if code >> 31 else -1.0
    return counts
