"""How a run begins and how it goes on: what was computed is compared with what the event log says of it.

The first event holds all options and the environment. Each checkpoint holds the SHA-256 of the log until then, so a
changed option, a changed figure and a deleted log are seen when the run goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from promptfed.config import RunConfig
from promptfed.environment import environment
from promptfed.errors import RunError
from promptfed.option import changing
from promptfed.oracle_options import OracleOptions
from promptfed.printable import LONGEST, printable
from promptfed.runs.checkpoint import Checkpoint
from promptfed.runs.events import Event, EventLog

log = logging.getLogger(__name__)
MAY_CHANGE = frozenset(changing(RunConfig, "raised", "free"))
"""Options with which a run may go on that it was not begun with."""
MOVED = frozenset(changing(RunConfig, "moved"))
ORACLE_MAY_CHANGE = frozenset(changing(OracleOptions, "raised", "moved", "free"))
"""Of a black box: its limits, and where it is asked; which model it is, is compared by its fingerprint."""


def begin_or_continue(
    events: EventLog,
    config: RunConfig,
    checkpoints: Mapping[str, Checkpoint | None],
    say: Callable[[str], None],
    *,
    knows_backbone: bool = False,
) -> None:
    """Bring ``events`` to where the run stands, and write how it begins or goes on.

    Args:
        events: The run's log. What was written after the last checkpoint is dropped.
        config: The options to go on with.
        checkpoints: Stage -> its newest checkpoint, in the order in which stages run.
        say: Is told, in a line each, what is not as it was.
        knows_backbone: The backbone's fingerprint is that of the run, so its weights may lie in another place.

    Raises:
        RunError: ``config`` would train something else than the run has begun.
    """
    saved = [checkpoint for checkpoint in checkpoints.values() if checkpoint is not None]
    if not saved:
        events.truncate(0)
        events.write("run_start", **_beginning(config))
        return
    try:
        written = events.read()
    except RunError:  # it is compared by its checksum below
        written = []
    before, cut_off = environment_of(written), was_cut_off(written)
    last = max(saved, key=lambda checkpoint: checkpoint.events_bytes)
    if events.sha256(last.events_bytes) == last.events_sha256:
        _check_same(config, events, knows_backbone)
        events.truncate(last.events_bytes)
    else:
        there = events.path.exists()
        place = events.set_aside()
        what = f"not what was written (it is kept as {place.name})" if there else "gone"
        say(
            f"{events.path.name} is {what}: prompts and accuracies are not affected, but cost and curves of the "
            "rounds before are lost, and what the run costs in all is higher than will be shown"
        )
        events.write("run_start", **_beginning(config), log_lost=True)
    _say_what_is_trained_again(checkpoints, say)
    now = environment()
    if change := _changes(before, now):
        say(f"{change}: figures may differ in their last digits from those of an undisturbed run")
    if cut_off:
        log.info("the process before this one was killed; going on from the last checkpoint")
    events.write("resume", environment=now, killed=cut_off)


def check_options(
    config: RunConfig, events: EventLog, checkpoints: Iterable[Checkpoint | None], *, knows_backbone: bool = False
) -> None:
    """Compare ``config`` with the options that the run was begun with, as ``begin_or_continue`` does; write nothing.

    Raises RunError if it would train something else.
    """
    saved = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
    last = max(saved, key=lambda checkpoint: checkpoint.events_bytes, default=None)
    if last is not None and events.sha256(last.events_bytes) == last.events_sha256:
        _check_same(config, events, knows_backbone)


def whole_log(events: EventLog, checkpoints: Iterable[Checkpoint | None]) -> list[Event] | None:
    """Return all events; None if the log is not what it was when the newest of ``checkpoints`` was saved."""
    saved = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
    last = max(saved, key=lambda checkpoint: checkpoint.events_bytes, default=None)
    if last is not None and events.sha256(last.events_bytes) != last.events_sha256:
        return None
    try:
        return events.read()
    except RunError:  # a line after the last checkpoint: the run drops it
        return None if last is not None else []


def note_stop(events: EventLog, why: str) -> None:
    """Write down, in the log and in run.log, why the run stops before its end."""
    log.info("stopped: %s", why)
    events.write("stopped", why=why)


def was_cut_off(events: list[Event]) -> bool:
    """Whether the process that wrote ``events`` was killed: its last word was neither an end nor a stop."""
    return bool(events) and events[-1].get("event") not in ("run_end", "stopped")


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What of two environments may change the bits of a result, in words; empty if nothing does."""
    names = ("promptfed", "torch", "python", "system", "threads", "accelerator")
    changes = [
        f"{name} was {_shown(before[name])} and is {_shown(now[name])}"
        for name in names
        if name in before and before[name] != now[name]
    ]
    return "; ".join(changes)


def _beginning(config: RunConfig) -> dict[str, Any]:
    return {
        "method": config.method,
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
        "environment": environment(),
    }


def _check_same(config: RunConfig, events: EventLog, knows_backbone: bool) -> None:
    """Raise RunError if the options in ``config`` train something else than those the run was begun with."""
    began = next((event["config"] for event in events.read() if "config" in event), None)
    if began is None:
        return
    if changes := differences(began, config.model_dump(mode="json"), knows_backbone=knows_backbone):
        raise RunError(
            f"config.yaml of run '{printable(events.path.parent)}' is not the one that the run was begun with: "
            f"{changes}. Put it back, or train anew: promptfed train --config FILE --run DIR"
        )


def differences(began: Mapping[str, Any], now: Mapping[str, Any], *, knows_backbone: bool = False) -> str:
    """Return which options that a run must keep are not the same, in words; empty if all are.

    The backbone's name is not compared where the run knows it by its fingerprint (``check_same_model``).
    """
    may_change = MAY_CHANGE | MOVED if knows_backbone else MAY_CHANGE
    names = [name for name in sorted({*began, *now} - may_change) if _value(began, name) != _value(now, name)]
    return "; ".join(f"{n} was {_shown(began.get(n))} and is {_shown(now.get(n))}" for n in names)


def _value(options: Mapping[str, Any], name: str) -> Any:
    value = options.get(name)
    if name in ("objects", "processors"):  # runs of promptfed 0.1 had none
        return value or None
    if name == "oracle_options" and isinstance(value, dict):
        return {option: given for option, given in value.items() if option not in ORACLE_MAY_CHANGE}
    return value


def _shown(value: Any) -> str:
    return printable(repr(value), LONGEST)


def _say_what_is_trained_again(checkpoints: Mapping[str, Checkpoint | None], say: Callable[[str], None]) -> None:
    """Stages run one after the other: one without a checkpoint before one that has some has lost it."""
    waiting: list[str] = []
    for stage, checkpoint in checkpoints.items():
        if checkpoint is None:
            waiting.append(stage)
        else:
            for lost in waiting:
                say(f"the checkpoints of {lost} are gone: it is trained again, and its work counts twice in the cost")
            waiting = []


def environment_of(events: list[Event]) -> dict[str, Any]:
    """Return the environment that the run was last begun or continued in; empty for a log of an earlier version."""
    return next((event["environment"] for event in reversed(events) if "environment" in event), {})
