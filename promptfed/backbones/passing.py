"""Features of images that are looked at once, for a server: nothing of them stays, in memory or on disk."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from torch import Tensor

from promptfed.backbones.base import Backbone
from promptfed.backbones.features import FeatureCache, FeatureStore
from promptfed.errors import DataError
from promptfed.examples.base import ImageItem, Item

MOST_TEXTS = 10_000
"""Features of texts, such as class names in a template, that stay in memory."""


class PreparedImage(ImageItem):
    """An image that is preprocessed already: ``pixels`` ``(3, height, width)`` is all that is left of it."""

    def __init__(self, pixels: Tensor, name: str) -> None:
        self.pixels, self._name, self._id = pixels, name, secrets.token_hex(32)

    @property
    def name(self) -> str:
        return self._name

    def content_id(self) -> str:
        return self._id

    def load(self) -> Image.Image:
        raise DataError(f"image {self._name} is preprocessed: nothing but its pixels for the model is left")


class NoCache(FeatureCache):
    """Keeps nothing and has nothing."""

    def __init__(self) -> None:
        super().__init__(Path(), limit_bytes=0)

    def get(self, fingerprint: str, kind: str, ids: Iterable[str]) -> dict[str, Tensor]:
        return {}

    def put(self, fingerprint: str, kind: str, features: dict[str, Tensor]) -> None:
        pass


class PassingStore(FeatureStore):
    """A store whose images are forgotten on request, and whose batches have the size that there is work for."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone, NoCache(), load_threads=0)

    def expect(self, examples: int, most: int) -> None:
        """Set the size of the next batches: the power of two that holds ``examples``, ``most`` at most."""
        self.batch = min(1 << max(0, examples - 1).bit_length(), most)

    def forget(self) -> None:
        """Drop all that is known of images, and of texts where these are many."""
        self._splits.clear()
        for memory in (self._images, self._patches, self._kept_pixels):
            memory.clear()
        if len(self._texts) > MOST_TEXTS:
            self._texts.clear()

    def _pixels(self, item: Item) -> Tensor:
        return item.pixels if isinstance(item, PreparedImage) else super()._pixels(item)
