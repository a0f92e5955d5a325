"""Classify images or texts, or answer questions, with a prompt bundle and its model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptfed.build_method import build_method
from promptfed.cosines import cosine_logits
from promptfed.errors import ConfigError, DataError
from promptfed.examples.base import FileItem, ImageItem, Item, TextItem
from promptfed.examples.exact_match import final_answer
from promptfed.export.bundle import Bundle, check_model
from promptfed.frozen_model import FrozenModel
from promptfed.printable import LONGEST, printable
from promptfed.prompts.language_method import LanguageMethod
from promptfed.scores import is_answered
from promptfed.setup import Setup
from promptfed.tasks.sources.object_images import image_item, kind_of
from promptfed.types import Split

LEAST = 0.5
"""The probability from which a class is a label of an example that may have several."""


@dataclass(frozen=True)
class Prediction:
    """What a bundle says of one example.

    Attributes:
        example: An image's path, or a text; an image in memory is called by its place: ``examples[0]``.
        ranked: The most probable classes, best first, as ``(class, probability)``; of a question its answer. Empty if
            a black box did not answer.
        is_none: Whether even the best class is below the threshold that was asked for: the example is none of these.
        labels: The classes whose probability reaches the threshold, best first, where an example may have several;
            None where it has one. Each class then has a probability by itself.
    """

    example: Path | str
    ranked: tuple[tuple[str, float], ...]
    is_none: bool = False
    labels: tuple[str, ...] | None = None

    @property
    def best(self) -> str | None:
        """The most probable class; None if it is none of these, or not answered."""
        return self.ranked[0][0] if self.ranked and not self.is_none else None

    def cut(self, top: int, threshold: float | None = None) -> Prediction:
        """Return the same with the ``top`` best classes, and whether the first of them reaches ``threshold``."""
        is_none = threshold is not None and bool(self.ranked) and self.ranked[0][1] < threshold
        return replace(self, ranked=self.ranked[:top], is_none=is_none)


class Predictor:
    """A bundle joined with its model again.

    Raises:
        BundleError: The bundle was made for another model, or its method cannot use its prompt.
        ConfigError: Its method is not installed.
        TrainingError: The tokens of its prompt are not those that its method has.
    """

    def __init__(self, bundle: Bundle, model: FrozenModel) -> None:
        check_model(bundle, model)
        meta = bundle.meta
        self.bundle, self.model = bundle, model
        self.method = build_method(meta.method, meta.method_options, Setup(model, meta))
        with bundle.fitting():
            self.method.check_agreed(bundle.shared)

    def predict(
        self,
        examples: Iterable[Any],
        classes: Sequence[str] | None = None,
        top: int = 5,
        threshold: float | None = None,
    ) -> list[Prediction]:
        """Return the ``top`` most probable classes of every example; of questions, what is answered.

        Probabilities are a softmax over the scores of all the classes asked for; of a bundle for examples with several
        labels each class has its own, and all classes that reach the threshold are named.

        Args:
            examples: Images, texts or questions, as ``bundle.meta.examples`` says. An image is a path, a PIL image, or
                an array as ``image_of`` (tasks/sources/object_images.py) takes it.
            classes: Class names to choose among; None: those that the bundle was trained on.
            top: How many classes to name.
            threshold: The least probability of the best class; below it an example is none of these. Of a label: by
                default 0.5.

        Raises:
            DataError: An image is missing or cannot be decoded, or an example is of another kind.
            ConfigError: Fewer than two class names, a name given twice, ``top`` below 1, or ``threshold`` outside 0..1.
            OracleError: A black box does not answer.
            BudgetExhausted: What it may cost is used up.
        """
        meta = self.bundle.meta
        check_threshold(threshold, meta.examples)
        if meta.examples == "questions":
            return self._answers([_text(value, i) for i, value in enumerate(examples)])
        names = checked_classes(meta.classes if classes is None else classes, top)
        as_item = _image if meta.examples == "images" else _text_item
        items = [as_item(value, i) for i, value in enumerate(examples)]
        if not items:
            return []
        shown = [_shown(item) for item in items]
        logits = self._logits(unlabelled(items), names, own=classes is None)
        if meta.label_bias is not None:
            shares = (logits.float() + meta.label_bias).sigmoid()
            return labelled(shown, shares, names, top, LEAST if threshold is None else threshold)
        best = ranked(shown, logits, names, top)
        return [prediction.cut(top, threshold) for prediction in best]

    def scores(self, split: Split) -> Tensor:
        """Return the scores ``(n, classes)`` of the split's examples, of the classes that it was trained on."""
        return self._logits(split, self.bundle.meta.classes, own=True)

    @torch.no_grad()
    def _logits(self, split: Split, names: tuple[str, ...], own: bool) -> Tensor:
        """Scores ``(examples, classes)``; ``own``: ``names`` are the classes that the bundle was trained on."""
        features = self.bundle.class_features
        with self.bundle.fitting():
            if features is None or not own or not self.method.reads_texts_only:
                return self.method.client_logits(self.bundle.prompt, names, split)
            assert self.bundle.meta.logit_scale is not None, "every bundle with class features has one"
            images = self.method.setup.features.images(split)
            return cosine_logits(images, features.to(images.device), self.bundle.meta.logit_scale)

    def _answers(self, questions: Sequence[str]) -> list[Prediction]:
        if isinstance(self.method, LanguageMethod):
            with self.bundle.fitting():
                written = self.method.write(self.bundle.prompt, questions)
            return [
                Prediction(question, ((text, 1.0),) if text else ())
                for question, text in zip(questions, written, strict=True)
            ]
        prompt, oracle = self.bundle.candidate, self.method.setup.oracle
        if prompt is None:
            raise ConfigError(f"{self.method.name} has no single prompt that a question could be answered with")
        form = oracle.form
        texts = [form.render(prompt.text, question) for question in questions]
        completions = oracle.generate(texts, max_tokens=form.answer_tokens, stop=form.stop)
        answers = [final_answer(text) or text.strip() for text in completions]
        return [
            Prediction(question, ((answer, 1.0),) if answer else ())
            for question, answer in zip(questions, answers, strict=True)
        ]


def _image(value: Any, number: int) -> ImageItem:
    """Raise DataError for what is no image."""
    return value if isinstance(value, ImageItem) else image_item(value, f"examples[{number}]")


def _text_item(value: Any, number: int) -> TextItem:
    return TextItem(_text(value, number))


def _text(value: Any, number: int) -> str:
    """Raise DataError for what is no text."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise DataError(f"examples[{number}] is {kind_of(value)}, and this bundle is for texts: give text")
    return value


def _shown(item: Item) -> Path | str:
    if isinstance(item, FileItem):
        return item.path
    return item.text if isinstance(item, TextItem) else item.name


def unlabelled(items: Sequence[Item]) -> Split:
    """Return a split of examples whose classes nobody knows."""
    return Split(tuple(items), torch.zeros(len(items), dtype=torch.int64))


def ranked(examples: Sequence[Path | str], logits: Tensor, names: Sequence[str], top: int) -> list[Prediction]:
    """Return the ``top`` classes of each example by its scores ``(examples, classes)``; none without an answer."""
    answered = is_answered(logits).tolist()
    best = logits.float().softmax(-1).topk(min(top, len(names)), dim=-1)
    return [
        Prediction(example, tuple((names[i], p) for i, p in zip(rows, shares, strict=True)) if known else ())
        for example, known, rows, shares in zip(
            examples, answered, best.indices.tolist(), best.values.tolist(), strict=True
        )
    ]


def labelled(
    examples: Sequence[Path | str], shares: Tensor, names: Sequence[str], top: int, threshold: float
) -> list[Prediction]:
    """Return all classes of each example whose share ``(examples, classes)`` reaches ``threshold``, and the ``top``."""
    predictions = []
    for example, row in zip(examples, shares.tolist(), strict=True):
        order = sorted(range(len(names)), key=lambda k: -row[k])
        labels = tuple(names[k] for k in order if row[k] >= threshold)
        best = tuple((names[k], row[k]) for k in order[: max(top, len(labels))])
        predictions.append(Prediction(example, best, is_none=not labels, labels=labels))
    return predictions


def checked_classes(classes: Sequence[str], top: int) -> tuple[str, ...]:
    """Return ``classes`` without spaces around them. Raises ConfigError for lists that make no sense."""
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise ConfigError(f"classes are {printable(repr(classes), LONGEST)}: give a list of names")
    names = tuple(name.strip() for name in classes)
    if len(names) < 2:
        raise ConfigError(f"classes are {list(names)}: at least two are needed, such as cat and dog")
    if "" in names:
        raise ConfigError(f"classes are {list(names)}: one of them is empty; give every class a name")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"class '{twice[0]}' is given {names.count(twice[0])} times; name every class once")
    if not isinstance(top, int) or top < 1:
        raise ConfigError(f"top is {printable(repr(top), LONGEST)}: it must be a number, at least 1")
    return names


def check_threshold(threshold: Any, examples: str) -> None:
    """Raise ConfigError for a ``threshold`` that is no probability, and for one of answers in free text."""
    if threshold is None:
        return
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not is_number or not 0 <= threshold <= 1:
        raise ConfigError(f"threshold is {printable(repr(threshold), LONGEST)}: give a probability from 0 to 1")
    if examples == "questions":
        raise ConfigError(
            "this bundle answers questions in free text, which have no probability: leave out --threshold"
        )
