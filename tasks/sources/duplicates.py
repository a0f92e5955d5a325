"""Duplicate examples of a source: copies are left out, and one example with two labels is refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from promptfed.errors import DataError
from promptfed.examples.base import Sample
from promptfed.printable import printable
from promptfed.tasks.sources.base import Source

TOLERATED = 0.01
"""Share of examples with two labels that are left out with a note; more of them are an error."""


def without_duplicates(source: Source, content_ids: Sequence[str], *, strict: bool = False) -> Source:
    """Return ``source`` without copies that could stand in training and test, and with notes on them.

    A content in the test split stays there alone, else in the validation split, else once in each domain's training
    images; images whose split is still to be drawn are kept once in all.

    Raises:
        DataError: More than 1 % of the examples (with ``strict``: any) have another label elsewhere.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for i, content in enumerate(content_ids):
        groups[content].append(i)
    repeated = [group for group in groups.values() if len(group) > 1]
    if not repeated:
        return source
    samples = source.samples
    torn = [group for group in repeated if len({samples[i].label for i in group}) > 1]
    notes = list(source.notes)
    removals = {i for group in torn for i in group}
    if torn:
        first = torn[0][0]
        second = next(i for i in torn[0] if samples[i].label != samples[first].label)
        note = (
            f"{_name(samples[first])} is '{printable(source.classes[samples[first].label])}', and the same content in "
            f"{_name(samples[second])} is '{printable(source.classes[samples[second].label])}'"
        )
        if strict or len(removals) > TOLERATED * len(samples):
            more = f" ({len(torn)} contents have two labels)" if len(torn) > 1 else ""
            raise DataError(f"{note}{more}: one example has one label; remove one of the two")
        notes.append(f"left out, since their content has two labels: {len(removals)}; {note}")
    has_test = any(sample.split == "test" for sample in samples)
    copies: list[tuple[int, int]] = []
    leaks: list[tuple[int, int]] = []
    for group in repeated:
        if group[0] in removals:
            continue
        for copy, original in _copies(samples, group, has_test):
            crosses = _use(samples[copy], has_test) != _use(samples[original], has_test)
            (leaks if crosses else copies).append((copy, original))
    removals |= {copy for copy, _ in (*copies, *leaks)}
    if leaks:
        notes.append(_note(samples, leaks, "not trained on, since they stand in the test or validation split too"))
    if copies:
        notes.append(_note(samples, copies, "left out as copies of others"))
    return replace(source, samples=tuple(s for i, s in enumerate(samples) if i not in removals), notes=tuple(notes))


def _copies(samples: Sequence[Sample], group: Iterable[int], has_test: bool) -> Iterable[tuple[int, int]]:
    """Yield (copy, the one that stays) of the examples in ``group``, which have one content and one label."""
    rank = {"test": 0, "val": 1, "train": 2, "": 3}
    ordered = sorted(group, key=lambda i: (rank[_use(samples[i], has_test)], i))
    use = _use(samples[ordered[0]], has_test)
    originals: dict[str, int] = {}
    for i in ordered:
        same_use = _use(samples[i], has_test) == use
        domain = samples[i].domain if use else ""
        if same_use and domain not in originals:
            originals[domain] = i
        else:
            yield i, originals.get(domain, ordered[0])


def _use(sample: Sample, has_test: bool) -> str:
    """Return its split; empty if that is still to be drawn, as of all training images where there is no test split."""
    return "" if sample.split == "train" and not has_test else sample.split


def _note(samples: Sequence[Sample], pairs: Sequence[tuple[int, int]], what: str) -> str:
    copy, original = pairs[0]
    first = f"the first is {_name(samples[copy])}, the same as {_name(samples[original])}"
    return f"{what}: {len(pairs)}; {first}"


def _name(sample: Sample) -> str:
    return printable(sample.item.name, 300)
