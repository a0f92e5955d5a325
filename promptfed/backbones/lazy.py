"""Backbones whose text side is cached: texts are encoded from the cache, an image loads the whole backbone."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from promptfed.backbones.base import Backbone, CallCount
from promptfed.cache_dir import cache_folder
from promptfed.errors import BackboneError

B = TypeVar("B", bound=Backbone)
CACHE_MISS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)
"""Errors of a folder that does not hold a cached backbone."""
_LOADING = threading.RLock()
"""One thread loads; the others, which have images for it, wait."""


class LazyBackbone(Backbone, Generic[B]):
    """Mixin to be put before the kind of backbone that it stands for.

    Subclasses set ``_folder``, where the text side is cached, and ``_load``, which loads the whole backbone.
    """

    kind: ClassVar[type[Backbone]]
    is_thread_safe = True
    _folder: Path
    _load: Callable[[], Backbone]
    _full: B | None = None

    def whole(self) -> B:
        """Return the backbone with its image tower.

        Raises:
            BackboneError: It is not the one in the cache.
        """
        with _LOADING:
            if self._full is None:
                full = self._load()
                if not isinstance(full, self.kind) or full.fingerprint != self.fingerprint:
                    raise BackboneError(f"backbone '{self.name}' is not the one in {self._folder}: delete that folder")
                full.calls = self.calls
                self._full = full  # type: ignore[assignment] # of that kind
            assert self._full is not None
            return self._full

    def verify_frozen(self) -> None:
        super().verify_frozen()
        if self._full is not None:
            self._full.verify_frozen()

    @property
    def image_transform(self) -> Any:
        return self.whole().image_transform

    def preprocess(self, image: Image.Image) -> Tensor:
        return self.whole().preprocess(image)

    def encode_images(self, pixels: Tensor) -> Tensor:
        return self.whole().encode_images(pixels)

    def encode_patches(self, pixels: Tensor) -> Tensor:
        return self.whole().encode_patches(pixels)


def folder_for(described: Sequence[object]) -> Path:
    """Return the cache folder of ``described`` (model, device, precision, versions); each description has its own."""
    home: Path = cache_folder()
    return home / "towers" / hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def check_same_bits(again: Backbone, backbone: Backbone, texts: Sequence[str]) -> None:
    """Check that two backbones have the same features of ``texts``; the calls are not counted.

    Raises:
        ValueError: The features differ.
    """
    calls, backbone.calls = backbone.calls, CallCount()
    try:
        same = torch.equal(again.encode_text(texts), backbone.encode_text(texts))
    finally:
        backbone.calls = calls
    if not same:
        raise ValueError("its features have other bits")
