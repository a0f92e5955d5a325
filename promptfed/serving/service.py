"""What a server answers with: bundles of one model, asked in batches."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.passing import PassingStore, PreparedImage
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.errors import ConfigError, DataError
from promptfed.examples import pixels
from promptfed.examples.base import ImageItem
from promptfed.export.bundle import Bundle, read_bundle
from promptfed.export.folder import CONFIG
from promptfed.export.hub import is_hub
from promptfed.export.loaded import LoadedBundle, bundle_place, load_bundle
from promptfed.export.predict import Prediction, Predictor
from promptfed.frozen_model import FrozenModel
from promptfed.language_models.model import LanguageModel
from promptfed.printable import printable
from promptfed.readers.files import read_bytes
from promptfed.readers.json_reader import LIMITS
from promptfed.serving.batching import Batcher
from promptfed.serving.limits import ServeLimits

REFRESH = 1000
"""Examples after which what a language model or a method remembers of texts and class names is dropped."""
DECODERS = 2
"""Images that are decoded at once."""

Key = tuple[str, tuple[str, ...] | None]
"""The bundle that is asked, and the classes to choose among; None: its own."""


class UploadedImage(ImageItem):
    """An image file in memory."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name = data, name

    @property
    def name(self) -> str:
        return self._name

    def content_id(self) -> str:
        return pixels.content_id(self._data, self._name)

    def load(self) -> Image.Image:
        return pixels.decode(self._data, self._name)[0]


class Service:
    """Bundles of one model behind a queue.

    Images are decoded by whoever calls ``image``, several at a time; the model works in one thread. Nothing about an
    example is written anywhere, and what is remembered in memory is dropped.

    Args:
        bundles: Name -> bundle, all for ``model``.
        model: The frozen model. Of a dual encoder the towers are used, without its feature store.
        digests: Name -> SHA-256 of the bundle's config, which names those of its other files.
        limits: How much is taken at a time.
    """

    def __init__(
        self, bundles: dict[str, Bundle], model: FrozenModel, digests: dict[str, str], limits: ServeLimits
    ) -> None:
        if several := [name for name, bundle in bundles.items() if bundle.meta.label_bias is not None]:
            raise ConfigError(
                f"bundle '{printable(several[0])}' says several labels of an image: use promptfed predict"
            )
        self.limits, self.digests, self.bundles = limits, digests, bundles
        self._store: PassingStore | None = None
        if isinstance(model, DualEncoder):
            self._store = PassingStore(model.backbone)
            model = DualEncoder(self._store)
        self.model = model
        self._predictors = {name: Predictor(bundle, model) for name, bundle in bundles.items()}
        self._seen = 0
        self._decoding = threading.BoundedSemaphore(DECODERS)
        self._preprocessing = threading.Lock()
        wait = limits.max_wait_ms / 1000
        self.batcher = Batcher(self._work, max_batch=limits.max_batch, max_wait=wait, max_queue=limits.max_queue)

    @classmethod
    def of(cls, paths: Sequence[Any], limits: ServeLimits | None = None, **options: Any) -> Service:
        """Load the bundles in ``paths``, which are for one model.

        Args:
            paths: Folders; a bundle is called by the name of its folder.
            limits: How much is taken at a time.
            options: As of ``load_bundle``, for the model of the first.

        Raises:
            ConfigError: There is none, two have the same name, or an option does not go with the first.
            BundleError: A bundle is damaged, or for another model than the first.
        """
        folders = [bundle_place(path) for path in paths]
        names = [str(path).rpartition("/")[2] if is_hub(path) else Path(path).resolve().name for path in paths]
        if not names:
            raise ConfigError("there is no bundle to serve: name its folder")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two bundles are called '{twice[0]}', and a bundle is called by its folder: rename one")
        if read_bundle(folders[0]).meta.oracle is not None:
            options = {**options, "cache": False}  # answers are not kept on disk
        with_model: LoadedBundle = load_bundle(folders[0], **options)
        bundles = {names[0]: with_model.predictor.bundle}
        bundles |= {name: read_bundle(folder) for name, folder in zip(names[1:], folders[1:], strict=True)}
        digests = {
            name: hashlib.sha256(read_bytes(folder / CONFIG, LIMITS.size)).hexdigest()
            for name, folder in zip(names, folders, strict=True)
        }
        return cls(bundles, with_model.predictor.model, digests, limits or ServeLimits())

    @property
    def first(self) -> str:
        """The bundle that is asked if none is named."""
        return next(iter(self.bundles))

    @property
    def max_batch(self) -> int:
        """Examples that go through the model together."""
        return self.limits.max_batch

    def image(self, data: bytes, name: str) -> ImageItem:
        """Return an uploaded image as an example.

        Raises:
            DataError: It is no image, damaged, or larger than the limits.
        """
        width, height = pixels.size_of(data, name)
        if width * height > self.limits.pixels:
            raise DataError(
                f"image {name} has {width:,} x {height:,} pixels; at most {self.limits.max_megapixels:g} million are "
                "taken here: make it smaller"
            )
        if self._store is None:
            return UploadedImage(data, name)
        with self._decoding:
            image = pixels.decode(data, name)[0]
            return PreparedImage(self._prepared(image, name), name)

    def _prepared(self, image: Image.Image, name: str) -> Tensor:
        assert self._store is not None, "the caller saw to it"
        backbone = self._store.backbone
        try:
            if backbone.is_thread_safe:
                return backbone.preprocess(image)
            with self._preprocessing:
                return backbone.preprocess(image)
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"cannot read image {name}: {error}") from error

    def submit(self, bundle: str, classes: tuple[str, ...] | None, examples: Sequence[Any]) -> Future[list[Prediction]]:
        """Ask ``bundle`` about examples: images from ``image``, or texts.

        Raises:
            QueueFullError: Too many wait.
        """
        key: Key = (bundle, classes)
        return self.batcher.submit(key, examples)

    def _work(self, key: Key, examples: list[Any]) -> list[Prediction]:
        """Answer ``examples`` of one key, with all classes ranked."""
        name, classes = key
        predictor = self._predictors[name]
        try:
            if self._store is not None:
                self._store.expect(len(examples), self.limits.max_batch)
            with torch.inference_mode(False), torch.no_grad():
                return predictor.predict(
                    examples, classes, self.limits.max_classes + len(predictor.bundle.meta.classes)
                )
        finally:
            self._forget(name, len(examples))

    def _forget(self, name: str, examples: int) -> None:
        if self._store is not None:
            self._store.forget()
        self._seen += examples
        if self._seen >= REFRESH:
            self._seen = 0
            if isinstance(self.model, LanguageModel):
                self.model = self.model.with_form(self.model.form)
            elif isinstance(self.model, Oracle):
                self.model.backend.leave_no_features()
            self._predictors = {name: Predictor(bundle, self.model) for name, bundle in self.bundles.items()}

    def warm_up(self) -> None:
        """Answer one example of nothing, so that the first request does not wait for what is made once.

        A black box is not asked: it may cost money.
        """
        for name, bundle in self.bundles.items():
            if bundle.meta.oracle is None and bundle.meta.examples != "questions":
                example: Any = "a text"
                if bundle.meta.examples == "images":
                    blank = Image.new("RGB", (64, 64), "grey")
                    example = PreparedImage(self._prepared(blank, "blank"), "blank")
                self.submit(name, None, [example]).result()

    def close(self) -> None:
        """Answer what waits, and close the model's connection."""
        self.batcher.close()
        self.model.close()
