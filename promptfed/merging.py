"""One merge that cannot break the shared prompt: it is whole and finite afterwards, or it is what it was."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from promptfed.aggregators.base import Aggregator
from promptfed.errors import BudgetExhausted, OracleError
from promptfed.printable import printable
from promptfed.prompt_state import PromptState
from promptfed.types import Update

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merge:
    """Outcome of a merge.

    ``refused``: client -> what is wrong with its update; ``problem``: why nothing was merged, "" if all went well.
    ``broadcasts``: client, or None for one that never took part -> what it would be sent next, for those that were
    looked at.
    """

    shared: PromptState
    server: PromptState
    refused: dict[int, str] = field(default_factory=dict)
    problem: str = ""
    broadcasts: Mapping[int | None, PromptState] = field(default_factory=dict)


def merge(rule: Aggregator, shared: PromptState, updates: Sequence[Update], server: PromptState) -> Merge:
    """Apply ``rule`` to ``updates``, of which there is at least one.

    If the rule fails, or its result is not finite, updates with which it also fails alone are left out and refused, and
    the rest is tried again; if that fails too, all stays as it was. Raises what the rule raises if it fails with every
    update (then it is the rule's fault), and BudgetExhausted and OracleError, which are no update's fault.
    """
    try:
        return _merged(rule, shared, updates, server)
    except (BudgetExhausted, OracleError):
        raise
    except Exception as error:
        LOG.warning("a merge of %d updates failed: %s", len(updates), printable(error, 200))
        faults = {update.client: why for update in updates if (why := _fault(rule, shared, update, server))}
        accepted = [update for update in updates if update.client not in faults]
        if not accepted and len(updates) > 1 and not isinstance(error, NotFinite):
            raise
        if faults and accepted:
            again = merge(rule, shared, accepted, server)
            return replace(again, refused=faults | again.refused)
        return Merge(shared, server, faults, printable(error, 200))


class NotFinite(ArithmeticError):  # noqa: N818 (a state of numbers)
    """A merge whose result has infinities or NaN in it."""


def _merged(rule: Aggregator, shared: PromptState, updates: Sequence[Update], server: PromptState) -> Merge:
    """``rule.apply``, also looking at what clients would be sent. Raises NotFinite, and whatever the rule raises."""
    new_shared, memory = rule.apply(shared, updates, server)
    if not new_shared.is_finite() or not memory.is_finite():
        raise NotFinite("the merged prompt would not be finite")
    looked_at = (None, *(update.client for update in updates))
    broadcasts = {client: rule.broadcast(new_shared, memory, client) for client in looked_at}
    if not all(prompt is new_shared or prompt.is_finite() for prompt in broadcasts.values()):
        raise NotFinite("what clients would be sent would not be finite")
    return Merge(new_shared, memory, broadcasts=broadcasts)


def _fault(rule: Aggregator, shared: PromptState, update: Update, server: PromptState) -> str:
    try:
        _merged(rule, shared, [update], server)
    except (BudgetExhausted, OracleError):
        raise
    except NotFinite:
        return "numbers that cannot be merged"
    except Exception as error:
        return f"an update that cannot be merged ({type(error).__name__}: {printable(error, 100)})"
    return ""
