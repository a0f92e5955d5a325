"""Local search over token lists: change one token, keep what is better; (1 + lambda) search that never looks twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from promptfed.blackbox.search.base import Searcher, Tokens, check_told

Propose = Callable[[int, Tokens], Sequence[int]]
"""``propose(position, tokens)``: indices worth trying there, from a masked language model or a plain list."""


class LocalSearch(Searcher[Tokens]):
    """Hill climbing: neighbours differ from the current list in one position, by one of the proposals for it.

    The first ask includes the current list itself unless its ``fitness`` is given: a neighbour is compared with a known
    value. Where fitness is noisy, tell the current list again along with its neighbours (the same mini-batch for all),
    and its new value counts.
    """

    def __init__(
        self,
        start: Sequence[int],
        propose: Propose,
        stream: np.random.Generator,
        *,
        fitness: float | None = None,
        accept_ties: bool = False,
    ) -> None:
        self.current: Tokens = tuple(int(token) for token in start)
        self.fitness = math.inf if fitness is None or not math.isfinite(fitness) else float(fitness)
        self.accept_ties = accept_ties
        self._propose, self._stream = propose, stream
        self._has_fitness = fitness is not None
        self._history: set[Tokens] = {self.current} if self._has_fitness else set()
        self._waiting: set[Tokens] = set()
        # Of the current list, by position, filled as needed: all neighbours, and those not looked at yet.
        self._neighbours: dict[int, list[Tokens]] = {}
        self._new_neighbours: dict[int, list[Tokens]] = {}

    def ask(self, n: int | None = None) -> list[Tokens]:
        """Return ``n`` (by default 1) distinct lists; fewer if fewer new ones are left, old ones if none is."""
        n = 1 if n is None else n
        lists: list[Tokens] = [] if self._has_fitness or self.current in self._history else [self.current]
        self._history.update(lists)
        open_positions = list(range(len(self.current)))
        while len(lists) < n and open_positions:
            position = open_positions[int(self._stream.integers(len(open_positions)))]
            neighbour = self._next(position)
            if neighbour is None:
                open_positions.remove(position)
            else:
                self._history.add(neighbour)
                lists.append(neighbour)
        if not lists:
            lists = self._again(n)
        self._waiting.update(lists)
        return lists

    def tell(self, candidates: Sequence[Tokens], fitness: Sequence[float]) -> None:
        """Move to the best candidate if it is better than the current list; the first of equally good ones."""
        check_told(candidates, fitness)
        lists = [tuple(int(token) for token in candidate) for candidate in candidates]
        values = [float(value) if math.isfinite(value) else math.inf for value in fitness]
        self._waiting.difference_update(lists)
        self._history.update(lists)
        if self.current in lists:
            self.fitness, self._has_fitness = values[lists.index(self.current)], True
        rivals = [(value, i) for i, value in enumerate(values) if lists[i] != self.current]
        if not rivals:
            return
        value, i = min(rivals)
        if value < self.fitness or (self.accept_ties and value == self.fitness < math.inf):
            self.current, self.fitness, self._has_fitness = lists[i], value, True
            self._neighbours, self._new_neighbours = {}, {}

    def best(self) -> Tokens:
        return self.current

    def stop(self) -> dict[str, object]:
        """Return ``local optimum`` once every neighbour of the current list is known."""
        if not self._has_fitness or self._waiting:
            return {}
        # Positions whose proposals are at hand come first: one neighbour left settles it, and proposals cost.
        positions = sorted(range(len(self.current)), key=lambda position: position not in self._new_neighbours)
        return {} if any(self._fresh(position) for position in positions) else {"local optimum": self.current}

    def _next(self, position: int) -> Tokens | None:
        """Return a random neighbour that is new, or None."""
        fresh = self._fresh(position)
        return fresh.pop() if fresh else None

    def _fresh(self, position: int) -> list[Tokens]:
        """Return neighbours at ``position``, in random order, last one next; proposals are bought once."""
        if position not in self._new_neighbours:
            self._new_neighbours[position] = self._shuffled(self._all(position))
        self._new_neighbours[position] = [
            tokens for tokens in self._new_neighbours[position] if tokens not in self._history
        ]
        return self._new_neighbours[position]

    def _all(self, position: int) -> list[Tokens]:
        if position not in self._neighbours:
            prefix, suffix = self.current[:position], self.current[position + 1 :]
            proposed = dict.fromkeys(int(token) for token in self._propose(position, self.current))
            neighbours = [(*prefix, token, *suffix) for token in proposed if token != self.current[position]]
            self._neighbours[position] = neighbours
        return self._neighbours[position]

    def _again(self, n: int) -> list[Tokens]:
        """Return all neighbours again (for noisy fitness), or the current list if there are none."""
        positions = range(len(self.current))
        neighbours = self._shuffled([tokens for position in positions for tokens in self._all(position)])
        return neighbours[:n] or [self.current]

    def _shuffled(self, lists: list[Tokens]) -> list[Tokens]:
        return [lists[i] for i in self._stream.permutation(len(lists))]
