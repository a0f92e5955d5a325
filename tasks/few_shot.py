"""Few images of each class: base and new halves, train, validation and test, drawn by the partition seed alone.

Lists of ``int`` are positions in the source's samples throughout. Every draw has a stream of its own, named by what
is drawn (a class, a client), so one client's images do not depend on another's.
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
    """How many leading classes are base: the source's own halves, else ``ceil(fraction * classes)``.

    All of them where a half would hold fewer than two classes, as one class alone is nothing to tell apart. Raises
    ConfigError if four classes or more would leave fewer than two to train on: that is the opposite of what was asked.
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
    """The source's own splits; of images without one, a share of every class and domain is set aside for test.

    Where the whole source has no test split, its training images count as images without a split.
    """
    has_test = any(sample.split == "test" for sample in source.samples)
    where: dict[str, list[int]] = defaultdict(list)
    groups: dict[tuple[int, str], list[int]] = defaultdict(list)
    for i, sample in enumerate(source.samples):
        if sample.split in ("val", "test") or (sample.split == "train" and has_test):
            where[sample.split].append(i)
        else:
            groups[sample.label, sample.domain].append(i)
    for (label, domain), own in groups.items():
        mixed = shuffled(own, seed, "test", source.classes[label], domain)
        # At least one image to train on: a class with a single image has none to test with.
        cut = min(len(own) - 1, max(1, round(len(own) * test_fraction)))
        where["test"] += mixed[:cut]
        where["train"] += mixed[cut:]
    return Pools(sorted(where["train"]), where["val"], sorted(where["test"]))


def capped(source: Source, test: Iterable[int], limit: int | None, seed: int) -> list[int]:
    """At most ``limit`` test images of each class, spread evenly over its domains; all of them for None."""
    if limit is None:
        return list(test)
    kept: list[int] = []
    for label, own in by_class(source, test).items():
        ranks: list[tuple[int, str, int]] = []
        for domain in sorted({source.samples[i].domain for i in own}):
            inside = [i for i in own if source.samples[i].domain == domain]
            mixed = shuffled(inside, seed, "test cap", source.classes[label], domain)
            ranks += [(rank, domain, i) for rank, i in enumerate(mixed)]
        kept += [i for _, _, i in sorted(ranks)[:limit]]
    return sorted(kept)


def draw_exactly(
    source: Source, train: Iterable[int], val: Iterable[int], shots: int, val_shots: int, seed: int, client: str
) -> FewShotSplit:
    """``shots`` training and ``val_shots`` validation images of every class in ``train``.

    More shots add images and keep the others. Validation images come from the source's own validation split where
    the class has one. Raises DataError naming the first class with too few images.
    """
    own_val = by_class(source, val)
    drawn = FewShotSplit([], [])
    for label, own in by_class(source, train).items():
        name = source.classes[label]
        apart = own_val.get(label, [])
        need = shots if apart else shots + val_shots
        if len(own) < need:
            raise DataError(_too_few(name, len(own), shots, 0 if apart else val_shots))
        mixed = shuffled(own, seed, "shots", client, name)
        start = 0 if apart else val_shots
        drawn.val.extend(shuffled(apart, seed, "val", client, name)[:val_shots] if apart else mixed[:start])
        drawn.train.extend(mixed[start : start + shots])
    return drawn


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
    """Up to ``shots`` and ``val_shots`` images of every class; where there are fewer, both shrink alike.

    ``keep_all`` lifts the two limits: a share that was dealt from a pool of the right size is kept whole. A client
    with two training images of one class has at least one to validate on. Raises DataError for a client with none.
    """
    own_val = by_class(source, val)
    drawn = FewShotSplit([], [])
    for label, own in by_class(source, train).items():
        name = source.classes[label]
        mixed = shuffled(own, seed, "shots", client, name)
        apart = shuffled(own_val.get(label, []), seed, "val", client, name)
        held_back = 0 if apart else len(own) * val_shots // (shots + val_shots)
        if not keep_all:
            held_back, apart = min(held_back, val_shots), apart[:val_shots]
        drawn.val.extend(apart or mixed[:held_back])
        drawn.train.extend(mixed[held_back:] if keep_all else mixed[held_back : held_back + shots])
    if not drawn.train:
        raise DataError(f"{client} has no training image of any base class: use fewer clients or another partition")
    biggest = max(by_class(source, drawn.train).values(), key=len)
    if not drawn.val and len(biggest) > 1:
        drawn.train.remove(biggest[-1])
        drawn.val.append(biggest[-1])
    return drawn


def thinned(source: Source, images: Iterable[int], per_class: int, seed: int, purpose: str) -> list[int]:
    """At most ``per_class`` images of each class: the pool that shares are dealt from."""
    kept: list[int] = []
    for label, own in by_class(source, images).items():
        kept += shuffled(own, seed, "pool", purpose, source.classes[label])[:per_class]
    return sorted(kept)


def by_class(source: Source, images: Iterable[int]) -> dict[int, list[int]]:
    """``images`` by label, labels rising."""
    groups: dict[int, list[int]] = defaultdict(list)
    for i in images:
        groups[source.samples[i].label].append(i)
    return dict(sorted(groups.items()))


def shuffled(images: Sequence[int], seed: int, *names: str) -> list[int]:
    order = numpy_stream(seed, "few shot", *names).permutation(len(images))
    return [images[i] for i in order]
