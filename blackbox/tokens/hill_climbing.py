"""Local search over tokens within a client's allowance, and the choice between what it had and what it found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from promptfed.blackbox.base import ClientOracle
from promptfed.blackbox.search.base import Tokens
from promptfed.blackbox.search.local_search import LocalSearch, Propose
from promptfed.blackbox.tokens.base import validation_rows
from promptfed.types import ClientData, Split

Losses = Callable[[Sequence[Tokens], Tensor, Split | None], np.ndarray]
"""Losses ``(prompts,)`` of token lists on rows of a split, paid for at the desk (None: the training split)."""


def climb(start: Tokens, propose: Propose, losses: Losses, desk: ClientOracle, spare: int, neighbours: int) -> Tokens:
    """The token list where a local search from ``start`` ends when only ``spare`` queries are left, or at an optimum.

    ``neighbours`` lists are scored at a time, all on one batch of training examples. ``propose`` may spend queries
    too: it is not asked when one more would leave nothing to score with.
    """
    rows = desk.batch()

    def affordable(position: int, tokens: Tokens) -> Sequence[int]:
        return propose(position, tokens) if desk.left - spare > len(rows) else ()

    local = LocalSearch(start, affordable, desk.stream)
    while desk.left - spare >= len(rows) and not local.stop():
        asked = local.ask(min(neighbours, (desk.left - spare) // len(rows)))
        asked = asked[: max(0, desk.left - spare) // len(rows)]
        if not asked:
            break
        local.tell(asked, losses(asked, rows, None).tolist())
    return local.best()


def reserve(queries: int, data: ClientData, prompts: int, most: int) -> int:
    """Of ``queries``, those to keep for ``no_worse`` to compare ``prompts`` prompts on at most ``most`` examples of
    ``data``; at most a quarter, so that a search is left."""
    available = len(data.val) or len(data.train)
    return prompts * min(most, available, queries // (4 * prompts))


def no_worse(prompts: Sequence[Tokens], losses: Losses, desk: ClientOracle, queries: int) -> list[bool]:
    """For every prompt after the first, whether it does as well as the first on the client's validation examples, as
    many as ``queries`` reach for; nobody is turned away if they reach for none."""
    examples = queries // len(prompts)
    if not examples:
        return [True] * (len(prompts) - 1)
    split, rows = validation_rows(desk, examples)
    found = losses(prompts, rows, split)
    return [bool(value <= found[0]) for value in found[1:]]
