"""Nevergrad's optimisers over token lists, with private random streams and external evaluation."""

from __future__ import annotations

import difflib
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from promptfed.blackbox.search.base import Searcher, Tokens, check_told, optional
from promptfed.errors import ConfigError, unknown_name

DEFAULT = "PortfolioDiscreteOnePlusOne"
"""Optimiser that nevergrad's guide recommends for discrete spaces."""
ALSO_GOOD = ("DiscreteOnePlusOne", "FastGADiscreteOnePlusOne", "NGOpt", "OnePlusOne", "TBPSA")
"""Named in the error for an unknown name: nevergrad has more than 500."""
WORST = 4.9e20
"""For fitness that is not finite: just below 5e20, at which nevergrad clips with a warning."""

_numpy_global = threading.RLock()


class NevergradSearch(Searcher[Tokens]):
    """``length`` tokens out of ``vocabulary_size``, by the optimiser ``name`` of nevergrad's registry.

    Each token is a ``Choice``: a softmax over weights, ``length * vocabulary_size`` numbers to learn. With
    ``transition=True`` it is a ``TransitionChoice``: ``length`` numbers, for vocabularies in a meaningful order.
    ``workers`` is how many are asked for at a time, and what the optimiser adapts to. ``start`` is where the search
    starts, and the first candidate.

    Seeding nevergrad is not enough: some of its optimisers (NGOpt, for one) also draw from numpy's global generator.
    Here that generator is exchanged for a private one while nevergrad works, and put back as it was.
    """

    def __init__(
        self,
        name: str,
        length: int,
        vocabulary_size: int,
        budget: int,
        stream: np.random.Generator,
        workers: int = 1,
        *,
        transition: bool = False,
        start: Sequence[int] | None = None,
    ) -> None:
        ng = optional("nevergrad")
        if name not in ng.optimizers.registry:
            raise _unknown(name, list(ng.optimizers.registry))
        for option, value, least in (
            ("length", length, 1),
            ("vocabulary_size", vocabulary_size, 2),
            ("budget", budget, 1),
            ("workers", workers, 1),
        ):
            if value < least:
                raise ConfigError(f"{option} must be {least} or more, not {value}")
        self.budget, self.workers, self.told = budget, workers, 0
        self._length, self._vocabulary_size = length, vocabulary_size
        self._start = None if start is None else self._checked(start)
        self._not_supported: type[Exception] = ng.errors.TellNotAskedNotSupportedError
        self._pending: dict[Tokens, list[Any]] = {}
        seeds = [int(seed) for seed in stream.integers(2**32, size=2)]
        self._global = np.random.RandomState(seeds[0]).get_state()  # nevergrad takes no Generator
        with self._private_numpy():
            kind = ng.p.TransitionChoice if transition else ng.p.Choice
            space = kind(range(vocabulary_size), repetitions=length)
            space.random_state = np.random.RandomState(seeds[1])
            if self._start is not None:
                space.value = self._start
            try:
                self._optimizer = ng.optimizers.registry[name](space, budget=budget, num_workers=workers)
            except (ValueError, ImportError) as error:
                raise ConfigError(f"nevergrad's {name} with workers={workers} and budget={budget}: {error}") from error
            if self._start is not None:
                self._optimizer.suggest(self._start)

    def ask(self, n: int | None = None) -> list[Tokens]:
        """Return ``n`` (by default ``workers``) lists; they may repeat, so use an answer cache."""
        with self._private_numpy():
            candidates = [self._optimizer.ask() for _ in range(self.workers if n is None else n)]
        lists = [tuple(int(token) for token in candidate.value) for candidate in candidates]
        for tokens, candidate in zip(lists, candidates, strict=True):
            self._pending.setdefault(tokens, []).append(candidate)
        return lists

    def tell(self, candidates: Sequence[Tokens], fitness: Sequence[float]) -> None:
        """Report fitness, also of lists that were never asked for; some optimisers ignore these."""
        check_told(candidates, fitness)
        with self._private_numpy():
            for tokens, value in zip(candidates, fitness, strict=True):
                tokens = self._checked(tokens)
                if waiting := self._pending.get(tokens):
                    candidate = waiting.pop(0)
                    if not waiting:
                        del self._pending[tokens]
                else:
                    candidate = self._optimizer.parametrization.spawn_child(new_value=tokens)
                try:
                    self._optimizer.tell(candidate, min(value, WORST) if math.isfinite(value) else WORST)
                except self._not_supported:
                    continue  # the start, which was suggested, or a list that came from elsewhere
                finally:
                    self.told += 1

    def best(self) -> Tokens:
        """Return nevergrad's recommendation, which for noisy optimisers need not be an evaluated list."""
        if self._start is not None and not self.told:
            return self._start
        with self._private_numpy():
            return tuple(int(token) for token in self._optimizer.provide_recommendation().value)

    def stop(self) -> dict[str, object]:
        """Return ``budget`` once as many evaluations were told: optimisers plan for it."""
        return {"budget": self.budget} if self.told >= self.budget else {}

    def _checked(self, tokens: Sequence[int]) -> Tokens:
        indices = tuple(int(token) for token in tokens)
        if len(indices) != self._length or not all(0 <= token < self._vocabulary_size for token in indices):
            raise ConfigError(f"tokens must be {self._length} indices below {self._vocabulary_size}, not {indices}")
        return indices

    @contextmanager
    def _private_numpy(self) -> Iterator[None]:
        """Replace numpy's global generator by ours inside the block; one searcher at a time."""
        with _numpy_global:
            outside = np.random.get_state()  # noqa: NPY002
            np.random.set_state(self._global)  # noqa: NPY002
            try:
                yield
            finally:
                self._global = np.random.get_state()  # noqa: NPY002
                np.random.set_state(outside)  # noqa: NPY002


def _unknown(name: str, registry: Sequence[str]) -> ConfigError:
    near = difflib.get_close_matches(name, registry, n=3, cutoff=0.5)
    names = [candidate for candidate in {DEFAULT, *ALSO_GOOD, *near} if candidate in registry]
    error = unknown_name("nevergrad optimizer", name, names)
    return ConfigError(f"{error} All {len(registry)} of them: nevergrad.optimizers.registry.")
