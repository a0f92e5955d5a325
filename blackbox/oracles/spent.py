"""Comparison of a run's ledger with its event log: a deleted ledger frees no budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from promptfed.blackbox.oracles.ledger import Account, OracleLedger
from promptfed.errors import RunError
from promptfed.frozen_model import FrozenModel
from promptfed.usage import Usage

RECOVERED = "recovered"
"""Stage of usage that is in the event log and not in the ledger."""
EVENT = "spent"
"""Event with the content of the ledger: all fields of Usage that are not zero."""
FIELDS = tuple(field.name for field in fields(Usage))


def note_spent(model: FrozenModel, write: Callable[..., None]) -> None:
    """Have ``write`` put the run's cost so far into the event log; nothing for a model without a ledger."""
    usage = model.spent()
    if usage is not None:
        write(EVENT, **usage.recorded())


def recover_spent(
    ledger: OracleLedger,
    events: Iterable[Mapping[str, Any]] | None,
    *,
    has_checkpoints: bool,
    say: Callable[[str], None],
) -> None:
    """Add to the run's ledger the usage that only the event log knows.

    Args:
        ledger: Of the run.
        events: The run's event log, oldest first; None if it is gone or is not what was written.
        has_checkpoints: Whether something of the run was trained already.
        say: Is told in a line if the ledger lacked something.

    Raises:
        RunError: The ledger is empty, and no log says what was spent before.
    """
    total = ledger.total()
    if events is None:
        if has_checkpoints and total == Usage():
            raise RunError(
                f"'{ledger.file}' holds nothing and the event log is not whole, so what the run has spent is not "
                "known: bring one of the two back from a copy, or train anew in another --run DIR"
            )
        return
    last: Mapping[str, Any] = next((event for event in reversed(list(events)) if event.get("event") == EVENT), {})
    lacking = {name: max(0, (last.get(name) or 0) - getattr(total, name)) for name in FIELDS}
    if lacking["usd"] <= 1e-9 * total.usd:  # sums of the same prices in another order
        lacking["usd"] = 0
    if not any(lacking.values()):
        return
    usage = Usage(**lacking)
    ledger.add(Account(RECOVERED), usage)
    say(
        f"'{ledger.file}' is gone or lacks what events.jsonl says was spent ({usage.oracle_calls:,} calls, "
        f"{usage.prompt_tokens + usage.completion_tokens:,} tokens, ${usage.usd:.2f}): these count against the budget, "
        "but nobody knows any more which client made them"
    )
