"""Frozen features, computed once: a content-addressed cache on disk and the store that reads through it.

A feature depends on the backbone, the content and the machine (library versions, number of threads). It never depends
on other queries, their order, or the content of the cache. To that end images go through the tower in batches of one
fixed shape, texts one by one, and the stored value is the one returned. So a run with a cold cache and one with a
warm cache get the same bits. States of documents (``language_models.kept_states``), which no run trains on, are read in
batches and are the one exception.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from promptfed.backbones.base import Backbone
from promptfed.backbones.loading import batch_on, default_threads, is_free_to_leave, loaded_ahead
from promptfed.cache_dir import cache_folder, feature_limit
from promptfed.errors import DataError, PromptFedError
from promptfed.examples.base import ImageItem, Item
from promptfed.files.atomic import PRIVATE, remove_drafts, write_bytes
from promptfed.files.locks import patient_lock
from promptfed.readers.files import read_bytes
from promptfed.readers.tensors import MOST_BYTES, parse_tensors, read_header
from promptfed.types import Split

T = TypeVar("T")
LOG = logging.getLogger(__name__)

IMAGE_BATCH = 8
"""Images in every batch, the last one filled up: matrix kernels round differently for different batch sizes."""

GPU_IMAGE_BATCH = 64
"""Images in every batch on a GPU, which has more to do at once."""

SHARD_ROWS = 2048
"""Features written to disk at a time, so that an interrupted run keeps nearly all of its work."""

PIXEL_BYTES = 1_000_000_000
"""Preprocessed images kept in memory for methods that send gradients through the image tower."""

Progress = Callable[[int, int], None]
"""Called with the number of items done and the number of items to do."""


KEY_BYTES = 32
"""Bytes of an id, a SHA-256."""


@dataclass
class _Index:
    """Location of each id's feature in some shards of one folder."""

    rows: dict[str, tuple[Path, int]] = field(default_factory=dict)
    shards: set[Path] = field(default_factory=set)


class FeatureCache:
    """Features on disk, by the SHA-256 of what they describe; processes may share a folder.

    Every (fingerprint, kind) has a folder of its own, with shards that are never changed once written: safetensors
    files with ``keys`` ``(n, 32)`` uint8 and ``features`` ``(n, dim)`` float32, named by the SHA-256 of their bytes.
    When all shards together exceed ``limit_bytes``, those that were not used for longest are deleted; a limit of 0
    keeps nothing. A vanished shard counts as a miss; a damaged one is deleted. A folder that cannot be written is
    reported once in the log and the work goes on without it.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._indexes: dict[Path, _Index] = {}
        self._has_warned = False

    def get(self, fingerprint: str, kind: str, ids: Iterable[str]) -> dict[str, Tensor]:
        """Return the stored features ``(dim,)`` of ``ids`` (hex SHA-256), as far as there are any."""
        home = self.folder / fingerprint / kind
        index = self._index(home)
        rows: dict[Path, list[tuple[str, int]]] = {}
        for key in dict.fromkeys(ids):
            if key in index.rows:
                shard, row = index.rows[key]
                rows.setdefault(shard, []).append((key, row))
        result: dict[str, Tensor] = {}
        for shard, pairs in rows.items():
            features = _read_shard(shard)
            if features is None:
                self._indexes.pop(home, None)
            else:
                # Copies of a few rows, or each of them would keep its whole shard in memory.
                is_minority = len(pairs) < len(features) / 2
                result.update({key: features[row].clone() if is_minority else features[row] for key, row in pairs})
        return result

    def put(self, fingerprint: str, kind: str, features: dict[str, Tensor]) -> None:
        """Store features ``(dim,)`` by id. An id that is already there keeps its feature."""
        if self.limit_bytes <= 0 or not features:
            return
        home = self.folder / fingerprint / kind
        try:
            home.mkdir(parents=True, exist_ok=True)
            with patient_lock(self.folder / "lock", "the feature cache"):
                remove_drafts(home)
                rows = self._index(home).rows
                fresh = {key: feature for key, feature in features.items() if key not in rows}
                if fresh:
                    _write_shard(home, fresh)
                    self._evict()
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                LOG.warning("features are not kept: cannot write to %s (%s)", self.folder, error.strerror or error)

    def _index(self, home: Path) -> _Index:
        """Return the index of all shards now in ``home``; only the keys of new ones are read."""
        present = set(home.glob("*.safetensors"))
        index = self._indexes.get(home)
        if index is None or not index.shards <= present:
            # A shard is gone, but another may hold some of its ids: start anew.
            index = self._indexes[home] = _Index()
        for shard in sorted(present - index.shards):
            keys = _read_keys(shard)
            if keys is not None:
                index.shards.add(shard)
                for row, key in enumerate(keys):
                    index.rows.setdefault(key, (shard, row))
        return index

    def _evict(self) -> None:
        shards = []
        for path in self.folder.glob("*/*/*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            shards.append((status.st_mtime_ns, path, status.st_size))
        total = sum(size for _, _, size in shards)
        for _, path, size in sorted(shards):
            if total <= self.limit_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


def _write_shard(home: Path, features: dict[str, Tensor]) -> None:
    """Write a shard whole or not at all, for the owner only: features say much about the images."""
    keys = torch.tensor([list(bytes.fromhex(key)) for key in features], dtype=torch.uint8)
    data = save({"keys": keys, "features": torch.stack(list(features.values())).float().cpu().contiguous()})
    write_bytes(home / f"{hashlib.sha256(data).hexdigest()}.safetensors", data, PRIVATE)


def _read_keys(shard: Path) -> list[str] | None:
    """Return the ids in ``shard``, in row order; None if it is gone or damaged (then it is deleted)."""
    try:
        keys = read_header(shard).get("keys")
        if keys is None or keys.dtype != "U8" or len(keys.shape) != 2 or keys.shape[1] != KEY_BYTES:
            raise ValueError("it has no keys")
        with safe_open(shard, "pt") as file:
            return [bytes(row).hex() for row in file.get_tensor("keys").tolist()]
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        _drop(shard, error)
        return None


def _read_shard(shard: Path) -> Tensor | None:
    """Return all features of ``shard`` and mark it as used; None if it is gone or damaged (then it is deleted)."""
    try:
        data = read_bytes(shard, MOST_BYTES)
        if hashlib.sha256(data).hexdigest() != shard.stem:
            raise ValueError("its bytes do not match its name")
        tensors = parse_tensors(data)
        features: Tensor = tensors["features"]
        if features.dim() < 2 or len(features) != len(tensors["keys"]):
            raise ValueError("it has not one feature for each key")
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        _drop(shard, error)
        return None
    try:
        os.utime(shard)
    except OSError:
        LOG.debug("cannot mark %s as used", shard)
    return features


def _drop(shard: Path, reason: Exception) -> None:
    if isinstance(reason, PermissionError):  # another user's: not damaged, but not readable
        LOG.debug("cannot read %s", shard)
        return
    LOG.warning("dropped the damaged feature file %s (%s)", shard, reason)
    try:
        shard.unlink(missing_ok=True)
    except OSError:
        LOG.debug("cannot delete %s", shard)


def default_cache(*, read_only: bool = False) -> FeatureCache:
    """Return the cache in PROMPTFED_CACHE (else the user's cache folder), bounded as ``feature_limit`` says.

    Args:
        read_only: Features in the cache are used, and none are added.

    Raises:
        ConfigError: The variable with the limit is no size.
    """
    limit = feature_limit()
    return FeatureCache(cache_folder() / "features", 0 if read_only else limit)


class FeatureStore:
    """Image and text features of one backbone, looked up in memory, then in the cache, and only then computed.

    Features are float32, on the backbone's device, and may be used in training whatever the mode they were made in.
    """

    def __init__(
        self, backbone: Backbone, cache: FeatureCache | None = None, *, load_threads: int | None = None
    ) -> None:
        """Make an empty store.

        Args:
            backbone: Computes what is not in ``cache``.
            cache: Features on disk; None takes the user's.
            load_threads: Threads that load images ahead of the tower; None takes as many as the device deserves.
        """
        self.backbone = backbone
        self.cache = default_cache() if cache is None else cache
        self.load_threads = default_threads(backbone.device) if load_threads is None else load_threads
        self.batch = GPU_IMAGE_BATCH if backbone.device.type == "cuda" else IMAGE_BATCH
        self._splits: WeakKeyDictionary[Split, Tensor] = WeakKeyDictionary()
        self._images: dict[str, Tensor] = {}
        self._patches: dict[str, Tensor] = {}
        self._texts: dict[str, Tensor] = {}
        self._kept_pixels: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        return f"<features of {self.backbone!r}: {len(self._images)} images and {len(self._texts)} texts in memory>"

    @property
    def fingerprint(self) -> str:
        """Return the key of the features: the model's, and the device's kind, as each rounds in its own way."""
        kind, model = self.backbone.device.type, self.backbone.fingerprint
        return model if kind == "cpu" else hashlib.sha256(f"{model}|{kind}|{self.batch}".encode()).hexdigest()

    def images(self, split: Split) -> Tensor:
        """Return features ``(n, embed_dim)`` float32 of the split's images, not normalised.

        Raises:
            DataError: An image cannot be read; the message names the first one.
        """
        if split not in self._splits:
            keyed = [(item.image_id(), item) for item in split.items]
            self._splits[split] = self._look_up("images", self._images, keyed, self._encode_images)
        return self._splits[split]

    def add_images(self, features: Mapping[str, Tensor]) -> None:
        """Add image features ``(embed_dim,)`` by content id that no image has; the cache on disk never has them."""
        self._images.update(features)

    def patches(self, split: Split) -> Tensor:
        """Return patch features ``(n, places, embed_dim)`` float32 of the split's images, not normalised."""
        keyed = [(item.image_id(), item) for item in split.items]
        return self._look_up("patches", self._patches, keyed, self._encode_patches)

    def pixels(self, split: Split, rows: Tensor | None = None) -> Tensor:
        """Return preprocessed images ``(n, 3, height, width)`` of the split, or of some ``rows`` of it, on the device.

        They serve methods whose image features change with the prompt; up to PIXEL_BYTES are kept in memory.
        """
        items = split.items if rows is None else [split.items[i] for i in rows.tolist()]
        return batch_on(self.backbone.device, [self._pixels_once(item) for item in items])

    def fill(self, items: Sequence[Item], on_progress: Progress | None = None, *, with_patches: bool = False) -> None:
        """Encode ``items`` ahead, so that ``images`` (and ``patches``) has their features.

        This is faster than many small splits: there is one progress count, and no partly filled batches.
        """
        keyed = [(item.image_id(), item) for item in items]
        self._look_up("images", self._images, keyed, self._encode_images, on_progress)
        if with_patches:
            self._look_up("patches", self._patches, keyed, self._encode_patches, on_progress)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Return features ``(texts, embed_dim)`` float32 of plain sentences, not normalised."""
        keyed = [(hashlib.sha256(text.encode()).hexdigest(), text) for text in texts]
        return self._look_up("texts", self._texts, keyed, self._encode_texts)

    def _look_up(
        self,
        kind: str,
        memory: dict[str, Tensor],
        keyed: Sequence[tuple[str, T]],
        encode: Callable[[list[T]], Generator[Tensor]],
        on_progress: Progress | None = None,
    ) -> Tensor:
        """Return features of ``(id, item)`` pairs from ``memory``, the cache, or ``encode``, batch by batch."""
        items, fingerprint = dict(keyed), self.fingerprint
        # The caller may be in inference mode, whose tensors can never be trained on; these are kept for all callers.
        with torch.inference_mode(False), torch.no_grad():
            absent = [key for key in items if key not in memory]
            if absent:
                memory.update(self.cache.get(fingerprint, kind, absent))
            misses = [key for key in absent if key not in memory]
            count, fresh = 0, dict[str, Tensor]()
            work = encode([items[key] for key in misses])
            try:
                for features in work:
                    fresh.update(zip(misses[count : count + len(features)], features.cpu(), strict=True))
                    count += len(features)
                    if len(fresh) >= SHARD_ROWS:
                        self._keep(kind, memory, fresh)
                        fresh = {}
                    if on_progress is not None:
                        on_progress(count, len(misses))
            finally:  # also when interrupted: encoded features are kept
                work.close()
                self._keep(kind, memory, fresh)
            if not keyed:
                return torch.empty(0, self.backbone.embed_dim, device=self.backbone.device)
            return torch.stack([memory[key] for key, _ in keyed]).to(self.backbone.device)

    def _keep(self, kind: str, memory: dict[str, Tensor], fresh: dict[str, Tensor]) -> None:
        if fresh:
            fingerprint = self.fingerprint
            self.cache.put(fingerprint, kind, fresh)
            # Another process may have been faster: the stored features count, so that the next run sees the same.
            memory.update(fresh | self.cache.get(fingerprint, kind, fresh))

    def _encode_texts(self, texts: list[str]) -> Generator[Tensor]:
        for text in texts:
            yield self.backbone.encode_text([text])

    def _encode_images(self, items: list[Item]) -> Generator[Tensor]:
        return self._encode(items, self.backbone.encode_images)

    def _encode_patches(self, items: list[Item]) -> Generator[Tensor]:
        return self._encode(items, self.backbone.encode_patches)

    def _encode(self, items: list[Item], tower: Callable[[Tensor], Tensor]) -> Generator[Tensor]:
        """Yield the features of ``items``, batch by batch, from images that are loaded ahead.

        A GPU is given the next batch before the features of one are waited for.
        """
        lag = 1 if self.backbone.device.type == "cuda" else 0
        waiting: deque[Tensor] = deque()
        may_leave = partial(is_free_to_leave, is_thread_safe=self.backbone.is_thread_safe)
        loader = loaded_ahead(items, self._pixels, may_leave, self.load_threads, 2 * self.batch)
        with closing(loader):
            try:
                for start in range(0, len(items), self.batch):
                    images = [next(loader) for _ in items[start : start + self.batch]]
                    filling = self.batch - len(images)
                    waiting.append(tower(batch_on(self.backbone.device, images + images[:1] * filling))[: len(images)])
                    self.backbone.calls.images -= filling
                    if len(waiting) > lag:
                        yield waiting.popleft()
            except PromptFedError:  # an image that cannot be read: the work before it is kept
                yield from waiting
                raise
        yield from waiting

    def _pixels_once(self, item: Item) -> Tensor:
        key = item.image_id()
        if key in self._kept_pixels:
            return self._kept_pixels[key]
        pixels = self._pixels(item)
        if (len(self._kept_pixels) + 1) * pixels.nbytes <= PIXEL_BYTES:
            self._kept_pixels[key] = pixels
        return pixels

    def _pixels(self, item: Item) -> Tensor:
        if not isinstance(item, ImageItem):
            raise DataError(f"{item.name} is not an image, which is what this model looks at")
        try:
            return self.backbone.preprocess(item.load())
        except DataError:
            raise
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"cannot read image {item.name}: {error}") from error
