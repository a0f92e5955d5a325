"""States of texts that stay on disk: a frozen model reads a document once, whoever asks for it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor

from promptfed.backbones.features import SHARD_ROWS, FeatureCache, default_cache
from promptfed.examples.base import Item
from promptfed.language_models.model import LanguageModel

KIND = "texts"
"""Their folder in the cache, beside the features of other texts."""


class KeptStates:
    """What a frozen model says of each text without an insert, from the cache of features where it has been read.

    A state is kept under the model's fingerprint (weights, tokenizer, precision) and the hash of the tokens that the
    model reads: a document that has changed is read again, as with another model. What was computed is what is kept, so
    the next caller gets the same bits. Texts are read in batches, so a state's last bits depend on the texts that were
    read with it: where some were kept before, they may differ from those of an empty cache.

    Args:
        model: The frozen language model.
        cache: Where states are kept; None takes the user's.
    """

    def __init__(self, model: LanguageModel, cache: FeatureCache | None = None) -> None:
        self.model = model
        self.cache = default_cache() if cache is None else cache

    @torch.no_grad()
    def of(self, items: Sequence[Item]) -> Tensor:
        """Return the states ``(items, width)``; the model reads those that nobody has kept, and they are kept."""
        ids = [hashlib.sha256(json.dumps(self.model.tokens_read(item)).encode()).hexdigest() for item in items]
        fingerprint = self._fingerprint
        states = self.cache.get(fingerprint, KIND, ids)
        lacking = list({key: item for key, item in zip(ids, items, strict=True) if key not in states}.items())
        for start in range(0, len(lacking), SHARD_ROWS):
            keys, some = zip(*lacking[start : start + SHARD_ROWS], strict=True)
            fresh = dict(zip(keys, self.model.states(some).cpu(), strict=True))
            self.cache.put(fingerprint, KIND, fresh)
            states |= fresh
        if not items:
            return torch.zeros(0, self.model.width, device=self.model.device)
        return torch.stack([states[key] for key in ids]).to(self.model.device)

    @property
    def _fingerprint(self) -> str:
        """Return the folder of these states: the model's, and the kind of device, as each rounds in its own way."""
        device = self.model.device.type
        return hashlib.sha256(f"{self.model.fingerprint}|states|{device}".encode()).hexdigest()
