"""Few images of each class: base and new halves, train, validation and test, drawn by the partition seed alone.

Lists of ``int`` are positions in the source's samples throughout. Every draw has a stream of its own, named by its
class or client, so one client's images do not depend on another's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from promptfed.errors import ConfigError, DataError
from promptfed.seeding import numpy_stream
from promptfed.tasks.sources.base import Source


@dataclass(frozen=True)
class Pools:
    """A source's samples by use; ``val`` is empty unless the source has a validation split of its own."""

    train: list[int]
    val: list[int]
    test: list[int]


@dataclass(frozen=True)
class FewShotSplit:
    """The images that one client keeps."""

    train: list[int]
    val: list[int]


def base_count(source: Source, fraction: float) -> int:
    """Return how many leading classes are base: the source's own halves, else ``ceil(fraction * classes)``.

    All of them are where a half would hold fewer than two classes, as there is nothing to tell apart in one class.

    Raises:
        ConfigError: Four classes or more would leave fewer than two to train on.
    """
    classes = len(source.classes)
    if source.base_classes is not None and fraction == 0.5:
        return source.base_classes
    base: int = math.ceil(round(classes * fraction, 9))
    if base < 2 and classes >= 4:
        raise ConfigError(
            f"a share of {1 - fraction:g} held out leaves {base} of {classes} classes to train on, and two are needed: "
            f"use --hold-out-classes {math.floor(100 * (classes - 2) / classes) / 100:g} or less"
        )
    return base if base >= 2 and classes - base >= 2 else classes


def pools(source: Source, test_fraction: float, seed: int) -> Pools:
    """Return the source's own splits; images without one are split, a share of every class and domain for test.

    Where the whole source has no test split, its training images count as images without a split.
    """
    has_test = any(sample.split == "test" for sample in source.samples)
    by_split: dict[str, list[int]] = defaultdict(list)
    groups: dict[tuple[int, str], list[int]] = defaultdict(list)
    for i, sample in enumerate(source.samples):
        if sample.split in ("val", "test") or (sample.split == "train" and has_test):
            by_split[sample.split].append(i)
        else:
            groups[sample.label, sample.domain].append(i)
    for (label, domain), images in groups.items():
        order = shuffled(images, seed, "test", source.classes[label], domain)
        # At least one image to train on: a class with a single image has none to test with.
        cut = min(len(images) - 1, max(1, round(len(images) * test_fraction)))
        by_split["test"] += order[:cut]
        by_split["train"] += order[cut:]
    return Pools(sorted(by_split["train"]), by_split["val"], sorted(by_split["test"]))


def capped(source: Source, test: Iterable[int], limit: int | None, seed: int) -> list[int]:
    """Return at most ``limit`` test images of each class, spread evenly over its domains; all of them for None."""
    if limit is None:
        return list(test)
    images: list[int] = []
    for label, candidates in by_class(source, test).items():
        ranks: list[tuple[int, str, int]] = []
        for domain in sorted({source.samples[i].domain for i in candidates}):
            inside = [i for i in candidates if source.samples[i].domain == domain]
            order = shuffled(inside, seed, "test cap", source.classes[label], domain)
            ranks += [(rank, domain, i) for rank, i in enumerate(order)]
        images += [i for _, _, i in sorted(ranks)[:limit]]
    return sorted(images)


def draw_exactly(
    source: Source, train: Iterable[int], val: Iterable[int], shots: int, val_shots: int, seed: int, client: str
) -> FewShotSplit:
    """Draw ``shots`` training and ``val_shots`` validation images of every class in ``train``.

    More shots add images and keep the others. Validation images come from the source's own validation split where the
    class has one.

    Raises:
        DataError: A class has too few images; the message names the first one.
    """
    own_val = by_class(source, val)
    sample = FewShotSplit([], [])
    for label, images in by_class(source, train).items():
        name = source.classes[label]
        val_images = own_val.get(label, [])
        need = shots if val_images else shots + val_shots
        if len(images) < need:
            raise DataError(_too_few(name, len(images), shots, 0 if val_images else val_shots))
        order = shuffled(images, seed, "shots", client, name)
        start = 0 if val_images else val_shots
        sample.val.extend(shuffled(val_images, seed, "val", client, name)[:val_shots] if val_images else order[:start])
        sample.train.extend(order[start : start + shots])
    return sample


def _too_few(name: str, count: int, shots: int, val_shots: int) -> str:
    need = f"shots {shots} + val_shots {val_shots} = {shots + val_shots}" if val_shots else f"shots {shots}"
    if count > val_shots:
        fix = f"use --shots {count - val_shots} or fewer, or add images"
    else:
        fix = f"add images (a class needs {val_shots + 1}; --set task.val_shots=1 lowers that) or remove the class"
    return f"class '{name}' has {count} training images, fewer than {need}: {fix}"


def draw_at_most(
    source: Source,
    train: Iterable[int],
    val: Iterable[int],
    shots: int,
    val_shots: int,
    seed: int,
    client: str,
    keep_all: bool = False,
) -> FewShotSplit:
    """Draw up to ``shots`` and ``val_shots`` images of every class; where there are fewer, both shrink alike.

    ``keep_all`` lifts the two limits: a share of a pool of the right size is kept whole. A client with two training
    images of one class has at least one to validate on.

    Raises:
        DataError: The client has no images.
    """
    own_val = by_class(source, val)
    sample = FewShotSplit([], [])
    for label, images in by_class(source, train).items():
        name = source.classes[label]
        order = shuffled(images, seed, "shots", client, name)
        val_images = shuffled(own_val.get(label, []), seed, "val", client, name)
        held_back = 0 if val_images else len(images) * val_shots // (shots + val_shots)
        if not keep_all:
            held_back, val_images = min(held_back, val_shots), val_images[:val_shots]
        sample.val.extend(val_images or order[:held_back])
        sample.train.extend(order[held_back:] if keep_all else order[held_back : held_back + shots])
    if not sample.train:
        raise DataError(f"{client} has no training image of any base class: use fewer clients or another partition")
    biggest = max(by_class(source, sample.train).values(), key=len)
    if not sample.val and len(biggest) > 1:
        sample.train.remove(biggest[-1])
        sample.val.append(biggest[-1])
    return sample


def thinned(source: Source, images: Iterable[int], per_class: int, seed: int, purpose: str) -> list[int]:
    """Return at most ``per_class`` images of each class: the pool for shares."""
    result: list[int] = []
    for label, group in by_class(source, images).items():
        result += shuffled(group, seed, "pool", purpose, source.classes[label])[:per_class]
    return sorted(result)


def by_class(source: Source, images: Iterable[int]) -> dict[int, list[int]]:
    """Group ``images`` by label, labels rising."""
    groups: dict[int, list[int]] = defaultdict(list)
    for i in images:
        groups[source.samples[i].label].append(i)
    return dict(sorted(groups.items()))


def shuffled(images: Sequence[int], seed: int, *names: str) -> list[int]:
    """Return ``images`` in an order drawn from the stream (seed, *names)."""
    order = numpy_stream(seed, "few shot", *names).permutation(len(images))
    return [images[i] for i in order]
