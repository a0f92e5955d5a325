"""Lazy client data: positions in the source, made into examples and labels on access."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from promptfed.tasks.few_shot import FewShotSplit
from promptfed.types import ClientData

KEPT = 64
"""Clients whose data is kept once made; of more, those that were not used for longest are made again."""


@dataclass(frozen=True)
class ClientAssignment:
    """A client's share of the data as positions in the source's samples."""

    name: str
    drawn: FewShotSplit
    test: list[int]
    domain: str = ""


def _compact(positions: list[int]) -> np.ndarray:
    return np.array(positions, dtype=np.int32)


class LazyClientDatasets(Sequence[ClientData]):
    """Sequence in which ``make(number, holding)`` makes client ``number``'s data; some hundred bytes a client."""

    def __init__(
        self, holdings: Iterable[ClientAssignment], make: Callable[[int, ClientAssignment], ClientData]
    ) -> None:
        self._make = make
        self._rows = [
            (h.name, h.domain, _compact(h.drawn.train), _compact(h.drawn.val), _compact(h.test)) for h in holdings
        ]
        self._cache: OrderedDict[int, ClientData] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> ClientData: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ClientData, ...]: ...

    def __getitem__(self, index: int | slice) -> ClientData | tuple[ClientData, ...]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return tuple(self[number] for number in numbers)
        if numbers not in self._cache:
            name, domain, train, val, test = self._rows[numbers]
            holding = ClientAssignment(name, FewShotSplit(train.tolist(), val.tolist()), test.tolist(), domain)
            self._cache[numbers] = self._make(numbers, holding)
            if len(self._cache) > KEPT:
                self._cache.popitem(last=False)
        self._cache.move_to_end(numbers)
        return self._cache[numbers]
