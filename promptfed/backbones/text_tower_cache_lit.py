"""The backbone `lit` without its image network, for processes that start anew (see ``text_tower_cache``)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

from safetensors.torch import save
from torch import nn

from promptfed.backbones.base import Backbone, CallCount, freeze, hash_tensors
from promptfed.backbones.device import pick_device, pick_dtype
from promptfed.backbones.lazy import CACHE_MISS, LazyBackbone, check_same_bits, folder_for
from promptfed.backbones.lit import PACKAGES, LitBackbone
from promptfed.backbones.minilm import load_minilm, word_ids
from promptfed.backbones.tokenization import Frame, Sentences, word_piece_words
from promptfed.files.atomic import write_bytes
from promptfed.files.sealed_json import opened_json, sealed_json
from promptfed.readers.files import read_bytes
from promptfed.readers.json_reader import LIMITS
from promptfed.readers.tensors import MOST_BYTES, parse_tensors

LOG = logging.getLogger(__name__)
FORMAT = 1
MEAN, ABOUT = "mean.safetensors", "about.json"
PROBES = ("a photo of a cat", "a lawn mower, and more words.")


class RememberedLit(LazyBackbone[LitBackbone], LitBackbone):
    """MiniLM with the mean that ``lit`` subtracts; ``whole`` loads the rest for the first image.

    Raises:
        Exception: One of ``CACHE_MISS``, or BackboneError: ``folder`` does not hold what is needed.
    """

    kind = LitBackbone

    def __init__(self, folder: Path, whole: Callable[[], Backbone], device: str, precision: str) -> None:
        about = opened_json(read_bytes(folder / ABOUT, LIMITS.size))
        blob = read_bytes(folder / MEAN, MOST_BYTES)
        if about["format"] != FORMAT or hashlib.sha256(blob).hexdigest() != about["mean_sha256"]:
            raise ValueError("another format, or damaged")
        reader, tokenizer = load_minilm()
        self.device, self._dtype = pick_device(device), pick_dtype(precision)
        self._reader = freeze(reader).to(self.device, self._dtype)
        frame = Frame((tokenizer.token_to_id("[CLS]"),), (tokenizer.token_to_id("[SEP]"),))
        table: nn.Embedding = reader.get_input_embeddings()
        encode, words = partial(word_ids, tokenizer), partial(word_piece_words, tokenizer)
        self._sentences = Sentences(self.name, encode, table, frame, self.context_length, words)
        self._mean = parse_tensors(blob)["mean"].to(self.device)
        self._fingerprint = about["fingerprint"]
        self.calls = CallCount()
        self._folder, self._load = folder, whole
        self._loaded_sha256 = self.weights_sha256()
        if self._loaded_sha256 != about["reader_sha256"]:
            raise ValueError("the reader is another one")

    def weights_sha256(self) -> str:
        """Return the hash of the reader alone."""
        return reader_sha256(self)


def load_remembered_lit(whole: Callable[[], Backbone], device: str, precision: str) -> Backbone:
    """Return ``whole()``, but without the image network until the first image if the rest is cached."""
    folder = folder_of(device, precision)
    if folder is None:
        return whole()
    try:
        return RememberedLit(folder, whole, device, precision)
    except CACHE_MISS as error:
        LOG.debug("nothing remembered in %s: %s", folder, error)
    backbone = whole()
    try:
        if isinstance(backbone, LitBackbone):
            remember(folder, backbone, whole, device, precision)
    except CACHE_MISS as error:
        LOG.debug("backbone 'lit' is not remembered: %s", error)
    return backbone


def folder_of(device: str, precision: str) -> Path | None:
    """Return the cache folder; None where a package is missing, which loading reports."""
    try:
        versions = [version(package) for package in ("promptfed", "torch", *sorted(PACKAGES.values()))]
    except PackageNotFoundError:
        return None
    return folder_for([FORMAT, "lit", str(pick_device(device)), precision, versions])


def remember(folder: Path, backbone: LitBackbone, whole: Callable[[], Backbone], device: str, precision: str) -> None:
    """Cache what ``RememberedLit`` needs.

    Raises:
        ValueError: It comes back with other bits.
    """
    blob = save({"mean": backbone._mean.cpu().contiguous()})
    about = {
        "format": FORMAT,
        "mean_sha256": hashlib.sha256(blob).hexdigest(),
        "reader_sha256": reader_sha256(backbone),
        "fingerprint": backbone.fingerprint,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / MEAN, blob)
    write_bytes(folder / ABOUT, sealed_json(about))
    again = RememberedLit(folder, whole, device, precision)
    try:
        check_same_bits(again, backbone, PROBES)
    except ValueError:
        (folder / ABOUT).unlink(missing_ok=True)
        raise


def reader_sha256(backbone: LitBackbone) -> str:
    """Return the hex SHA-256 of the text model's weights."""
    return hash_tensors(chain(backbone._reader.named_parameters(), backbone._reader.named_buffers()))
