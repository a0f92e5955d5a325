"""Lazy client data: positions in the source, made into examples and labels on access."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

from promptfed.tasks.client_assignment import ClientAssignment
from promptfed.tasks.client_index import ClientIndex
from promptfed.types import ClientData, ClientSummary

KEPT = 64
"""Clients whose data is kept once made; of more, those that were not used for longest are made again."""


class LazyClientDatasets(Sequence[ClientData]):
    """Sequence in which ``make(number, assignment)`` makes client ``number``'s data from its place in an index."""

    def __init__(
        self,
        assignments: ClientIndex | Iterable[ClientAssignment],
        make: Callable[[int, ClientAssignment], ClientData],
    ) -> None:
        self._make = make
        self.partition = assignments if isinstance(assignments, ClientIndex) else ClientIndex.of(assignments)
        self._cache: OrderedDict[int, ClientData] = OrderedDict()

    def __len__(self) -> int:
        return len(self.partition)

    def summaries(self) -> Iterator[ClientSummary]:
        """Yield what is known of each client without making its data."""
        for number, sizes in enumerate(self.partition.sizes().tolist()):
            yield ClientSummary(number, self.partition.name(number), self.partition.domain(number), *sizes)

    @overload
    def __getitem__(self, index: int) -> ClientData: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ClientData, ...]: ...

    def __getitem__(self, index: int | slice) -> ClientData | tuple[ClientData, ...]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return tuple(self[number] for number in numbers)
        if numbers not in self._cache:
            self._cache[numbers] = self._make(numbers, self.partition.assignment(numbers))
            if len(self._cache) > KEPT:
                self._cache.popitem(last=False)
        self._cache.move_to_end(numbers)
        return self._cache[numbers]
