"""Classify image files, or texts, with a prompt bundle, among its own classes or any others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from promptfed.backbones.base import Backbone
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureStore, default_cache
from promptfed.build_method import build_method
from promptfed.errors import ConfigError
from promptfed.examples.base import FileItem, Item
from promptfed.export.bundle import Bundle, check_backbone
from promptfed.export.folder import fitting
from promptfed.method import cosine_logits
from promptfed.scores import is_answered
from promptfed.setup import Setup
from promptfed.types import Split


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of ``example``, an image's path or a text, best first, as ``(class, probability)``;
    none if a black box did not answer."""

    example: Path | str
    ranked: tuple[tuple[str, float], ...]


class Predictor:
    """A bundle joined with its backbone again. Features that the cache holds are used, and none is added to it, unless
    ``features`` is a store that does; several predictors may share one.

    Raises BundleError if the bundle was made for another backbone, ConfigError if its method is not installed.
    """

    def __init__(self, bundle: Bundle, backbone: Backbone, features: FeatureStore | None = None) -> None:
        check_backbone(bundle, backbone)
        meta = bundle.meta
        store = FeatureStore(backbone, default_cache(read_only=True)) if features is None else features
        self.bundle = bundle
        self.method = build_method(meta.method, meta.method_options, Setup(DualEncoder(store), meta))

    def predict(self, paths: Sequence[Path], classes: Sequence[str] | None = None, top: int = 5) -> list[Prediction]:
        """The ``top`` most probable classes of every image; ``classes`` None means those the bundle was trained on.

        Probabilities are a softmax over all the classes asked for. Raises DataError naming an image that is missing or
        cannot be decoded, ConfigError for fewer than two class names, a name given twice, or ``top`` below 1.
        """
        names = checked_classes(self.bundle.meta.classes if classes is None else classes, top)
        if not paths:
            return []
        split = unlabelled([FileItem(path) for path in paths])
        with fitting(self.bundle):
            logits = self._logits(split, names, classes is None)
        return ranked(paths, logits, names, top)

    @torch.no_grad()
    def _logits(self, split: Split, names: tuple[str, ...], own: bool) -> Tensor:
        """Scores ``(images, classes)``."""
        if not own or not self.method.reads_texts_only:
            # Other classes, or a method that prompts the image side too: the method has to be asked.
            return self.method.client_logits(self.bundle.prompt, names, split)
        images = self.method.setup.features.images(split)
        return cosine_logits(images, self.bundle.class_features.to(images.device), self.bundle.meta.logit_scale)


def unlabelled(items: Sequence[Item]) -> Split:
    """Examples whose classes nobody knows."""
    return Split(tuple(items), torch.zeros(len(items), dtype=torch.int64))


def ranked(examples: Sequence[Path | str], logits: Tensor, names: Sequence[str], top: int) -> list[Prediction]:
    """The ``top`` classes of each example by its scores ``(examples, classes)``; none without an answer."""
    answered = is_answered(logits).tolist()
    best = logits.float().softmax(-1).topk(min(top, len(names)), dim=-1)
    return [
        Prediction(example, tuple((names[i], p) for i, p in zip(rows, shares, strict=True)) if known else ())
        for example, known, rows, shares in zip(
            examples, answered, best.indices.tolist(), best.values.tolist(), strict=True
        )
    ]


def checked_classes(classes: Sequence[str], top: int) -> tuple[str, ...]:
    """``classes`` without spaces around them. Raises ConfigError for lists that make no sense."""
    names = tuple(name.strip() for name in classes)
    if len(names) < 2:
        raise ConfigError(f"classes are {list(names)}: at least two are needed, such as --classes 'cat,dog'")
    if "" in names:
        raise ConfigError(f"classes are {list(names)}: one of them is empty; give every class a name")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"class '{twice[0]}' is given {names.count(twice[0])} times; name every class once")
    if top < 1:
        raise ConfigError(f"top is {top}: it must be at least 1")
    return names
