"""Local search over tokens within a client's budget, and the comparison of its result with its start."""

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
"""Losses ``(prompts,)`` of token lists on rows of a split, paid for by ``desk`` (None: the training split)."""


def climb(start: Tokens, propose: Propose, losses: Losses, desk: ClientOracle, spare: int, neighbours: int) -> Tokens:
    """Return the token list where a local search from ``start`` ends.

    It ends when only ``spare`` queries are left, or at an optimum. ``neighbours`` lists are scored at a time, all on
    one batch of training examples. ``propose`` may spend queries too: it is not called when one more would leave
    nothing to score with.
    """
    rows = desk.batch()

    def affordable(position: int, tokens: Tokens) -> Sequence[int]:
        return propose(position, tokens) if desk.left - spare > len(rows) else ()

    local = LocalSearch(start, affordable, desk.stream)
    while desk.left - spare >= len(rows) and not local.stop():
        candidates = local.ask(min(neighbours, (desk.left - spare) // len(rows)))
        candidates = candidates[: max(0, desk.left - spare) // len(rows)]
        if not candidates:
            break
        local.tell(candidates, losses(candidates, rows, None).tolist())
    return local.best()


def reserve(queries: int, data: ClientData, prompts: int, limit: int) -> int:
    """Return the part of ``queries`` to keep for ``no_worse``, at most a quarter.

    It suffices to compare ``prompts`` prompts on at most ``limit`` examples of ``data``.
    """
    available = len(data.val) or len(data.train)
    return prompts * min(limit, available, queries // (4 * prompts))


def no_worse(prompts: Sequence[Tokens], losses: Losses, desk: ClientOracle, queries: int) -> list[bool]:
    """Return for every prompt after the first whether it does as well as the first on validation examples.

    As many examples are used as ``queries`` allow; if they allow none, all prompts pass.
    """
    examples = queries // len(prompts)
    if not examples:
        return [True] * (len(prompts) - 1)
    split, rows = validation_rows(desk, examples)
    values = losses(prompts, rows, split)
    return [bool(value <= values[0]) for value in values[1:]]
