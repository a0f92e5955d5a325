"""A run's ledger is compared with what the run's event log says was spent: a ledger that is gone frees no budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from promptfed.blackbox.oracles.ledger import Account, OracleLedger
from promptfed.errors import RunError
from promptfed.frozen_model import FrozenModel
from promptfed.usage import Usage

RECOVERED = "recovered"
"""The stage of usage that the event log knows of and the ledger does not."""
EVENT = "spent"
"""The event that says what the ledger held: all fields of Usage that are not zero."""
FIELDS = tuple(field.name for field in fields(Usage))


def note_spent(model: FrozenModel, write: Callable[..., None]) -> None:
    """Have ``write`` put into the event log what the run has spent; nothing for a model that keeps no account."""
    spent = model.spent()
    if spent is not None:
        write(EVENT, **spent.recorded())


def recover_spent(
    ledger: OracleLedger,
    events: Iterable[Mapping[str, Any]] | None,
    *,
    has_checkpoints: bool,
    say: Callable[[str], None],
) -> None:
    """Add to the run's ledger what the event log knows of and it does not.

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
    known = Usage(**lacking)
    ledger.add(Account(RECOVERED), known)
    say(
        f"'{ledger.file}' is gone or lacks what events.jsonl says was spent ({known.oracle_calls:,} calls, "
        f"{known.prompt_tokens + known.completion_tokens:,} tokens, ${known.usd:.2f}): these count against the budget, "
        "but nobody knows any more which client made them"
    )
