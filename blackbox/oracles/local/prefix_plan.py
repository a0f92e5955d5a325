"""What the rows of a batch begin with, so that it is read once: the choice that leaves the fewest tokens to read.

A prompt before the texts is shared by all texts, a text before the prompts by all prompts, and what stands before both
(markers, a template's first words, worked examples) by all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch import Tensor

from promptfed.language_models.shared_prefix import Beginnings, CausalReader

LEAST_SAVED = 0.1
"""Share of all tokens that must be saved for sharing to be worth its overhead."""
OVERHEAD = 16
"""Tokens that one more reading of beginnings counts as."""

Row = Sequence[Hashable]


@dataclass(frozen=True)
class Grouping:
    """``group``: the group of each row, from 0; ``lengths``: how many first tokens all rows of each group share.

    At least one token of a row is not shared.
    """

    group: list[int]
    lengths: list[int]

    @classmethod
    def of(cls, rows: Sequence[Row], keys: Sequence[Hashable]) -> Grouping:
        """Group ``rows`` by ``keys``.

        A row alone in its group shares as much as the others at most: nothing is saved, nor padded, for it.
        """
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        group = [numbers[key] for key in keys]
        members: list[list[Row]] = [[] for _ in numbers]
        for row, number in zip(rows, group, strict=True):
            members[number].append(row)
        lengths = [_common(some) for some in members]
        most = max((length for length, some in zip(lengths, members, strict=True) if len(some) > 1), default=0)
        return cls(group, [min(length, most) for length in lengths])

    def cost(self, rows: Sequence[Row], outer: Grouping | None) -> int:
        """Return how many tokens are read, ``outer``'s beginnings before those of the groups."""
        inner = sum(len(row) - self.lengths[number] for row, number in zip(rows, self.group, strict=True))
        already = 0 if outer is None else outer.lengths[0]
        tokens = inner + already + sum(length - already for length in self.lengths)
        return tokens + OVERHEAD * (1 if outer is None else 2)


def choose(rows: Sequence[Row], keys: Sequence[Sequence[Hashable]]) -> tuple[Grouping | None, Grouping] | None:
    """Choose how to share what ``rows`` of tokens begin with.

    Args:
        rows: The tokens of each row, equal ones equal.
        keys: Ways to group the rows: for each way a key a row.

    Returns:
        What all rows share before their groups differ (None: nothing apart from those), and the groups. None if
        sharing saves too little.
    """
    if len(rows) < 2:
        return None
    whole = Grouping.of(rows, [0] * len(rows))
    below = [Grouping.of(rows, way) for way in keys]
    options: list[tuple[int, Grouping | None, Grouping]] = [(whole.cost(rows, None), None, whole)]
    options += [(grouping.cost(rows, None), None, grouping) for grouping in below]
    if whole.lengths[0]:
        options += [(grouping.cost(rows, whole), whole, grouping) for grouping in below if _is_finer(grouping, whole)]
    cost, outer, inner = min(options, key=lambda option: option[0])
    if cost > (1 - LEAST_SAVED) * sum(map(len, rows)):
        return None
    return outer, inner


@dataclass(frozen=True)
class SharedRows:
    """Rows that continue beginnings which are read.

    ``members``: their numbers among all rows; ``group``: which of the ``beginnings`` each continues; ``rest``: what it
    continues it with.
    """

    members: list[int]
    beginnings: Beginnings
    group: list[int]
    rest: list[list[int | Tensor]]


def shared_rows(
    reader: CausalReader,
    rows: Sequence[list[int | Tensor]],
    vectors: Callable[[list[int | Tensor]], Tensor],
    outer: Grouping | None,
    inner: Grouping,
    most: int,
) -> Iterator[SharedRows]:
    """Read the beginnings that ``choose`` has chosen, at most ``most`` groups at a time, and yield their rows.

    ``vectors`` returns the input vectors of a row.
    """
    before = 0 if outer is None else outer.lengths[0]
    first = reader.beginnings([vectors(rows[0][:before])]) if before else None
    members: list[list[int]] = [[] for _ in inner.lengths]
    for k, number in enumerate(inner.group):
        members[number].append(k)
    for start in range(0, len(members), most):
        some = list(zip(members[start : start + most], inner.lengths[start : start + most], strict=True))
        fresh = [vectors(rows[ks[0]][before:length]) for ks, length in some]
        yield SharedRows(
            [k for ks, _ in some for k in ks],
            reader.beginnings(fresh, None if first is None else first.select([0] * len(fresh))),
            [number for number, (ks, _) in enumerate(some) for _ in ks],
            [rows[k][length:] for ks, length in some for k in ks],
        )


def _is_finer(grouping: Grouping, whole: Grouping) -> bool:
    return len(grouping.lengths) > 1 and min(grouping.lengths) >= whole.lengths[0]


def _common(rows: Sequence[Row]) -> int:
    """Return how many first tokens all of ``rows`` share, less than the shortest row has."""
    first, length = rows[0], min(map(len, rows)) - 1
    for row in rows[1:]:
        pairs = zip(first[:length], row[:length], strict=True)
        length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return length
