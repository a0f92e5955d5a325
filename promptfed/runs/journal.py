"""Start and continuation of a run: the checkpoints are compared with the event log.

The first event holds all options and the environment. Each checkpoint holds the SHA-256 of the log until then, so a
changed option, a changed figure and a deleted log are noticed when the run goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
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
"""Options that may change when a run goes on."""
MOVED = frozenset(changing(RunConfig, "moved"))
ORACLE_MAY_CHANGE = frozenset(changing(OracleOptions, "raised", "moved", "free"))
"""Options of a black box that may change: its limits and its address. Its fingerprint identifies the model."""
NO_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


def begin_or_continue(
    events: EventLog,
    config: RunConfig,
    checkpoints: Mapping[str, Checkpoint | None],
    say: Callable[[str], None],
    *,
    knows_backbone: bool = False,
    defaults: Mapping[str, Mapping[str, Any]] = NO_DEFAULTS,
) -> None:
    """Bring ``events`` to the run's current state, and record the start or the continuation.

    Args:
        events: The run's log. What was written after the last checkpoint is dropped.
        config: The options to go on with.
        checkpoints: Stage -> its newest checkpoint, in the order in which stages run.
        say: Called with a line for each difference from the last session.
        knows_backbone: The backbone's fingerprint is that of the run, so its weights may lie in another place.
        defaults: Section of options -> the defaults of its options: what a run had of one that is newer than the run.

    Raises:
        RunError: ``config`` trains something else than the run has begun.
    """
    present = [checkpoint for checkpoint in checkpoints.values() if checkpoint is not None]
    if not present:
        events.truncate(0)
        events.write("run_start", **_beginning(config))
        return
    try:
        earlier = events.read()
    except RunError:  # it is compared by its checksum below
        earlier = []
    previous, cut_off = environment_of(earlier), was_cut_off(earlier)
    last = max(present, key=lambda checkpoint: checkpoint.events_bytes)
    if events.sha256(last.events_bytes) == last.events_sha256:
        _check_same(config, events, knows_backbone, defaults)
        events.truncate(last.events_bytes)
    else:
        exists = events.path.exists()
        target = events.set_aside()
        fault = f"not what was written (it is kept as {target.name})" if exists else "gone"
        say(
            f"{events.path.name} is {fault}: prompts and accuracies are not affected, but cost and curves of the "
            "rounds before are lost, and what the run costs in all is higher than will be shown"
        )
        events.write("run_start", **_beginning(config), log_lost=True)
    _say_what_is_trained_again(checkpoints, say)
    now = environment()
    if change := _changes(previous, now):
        say(f"{change}: figures may differ in their last digits from those of an undisturbed run")
    if cut_off:
        log.info("the process before this one was killed; going on from the last checkpoint")
    events.write("resume", environment=now, killed=cut_off)


def check_options(
    config: RunConfig,
    events: EventLog,
    checkpoints: Iterable[Checkpoint | None],
    *,
    knows_backbone: bool = False,
    defaults: Mapping[str, Mapping[str, Any]] = NO_DEFAULTS,
) -> None:
    """Compare ``config`` with the run's first options, as ``begin_or_continue`` does; write nothing.

    Raises:
        RunError: It trains something else.
    """
    present = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
    last = max(present, key=lambda checkpoint: checkpoint.events_bytes, default=None)
    if last is not None and events.sha256(last.events_bytes) == last.events_sha256:
        _check_same(config, events, knows_backbone, defaults)


def whole_log(events: EventLog, checkpoints: Iterable[Checkpoint | None]) -> list[Event] | None:
    """Return all events; None if the log has changed since the newest of ``checkpoints``."""
    present = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
    last = max(present, key=lambda checkpoint: checkpoint.events_bytes, default=None)
    if last is not None and events.sha256(last.events_bytes) != last.events_sha256:
        return None
    try:
        return events.read()
    except RunError:  # a line after the last checkpoint: the run drops it
        return None if last is not None else []


def note_stop(events: EventLog, why: str) -> None:
    """Record, in the log and in run.log, why the run stops before its end."""
    log.info("stopped: %s", why)
    events.write("stopped", why=why)


def was_cut_off(events: list[Event]) -> bool:
    """Return whether the process that wrote ``events`` was killed: its last event is neither an end nor a stop."""
    return bool(events) and events[-1].get("event") not in ("run_end", "stopped")


def _changes(previous: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """Return in words the differences of two environments that may change the bits of a result."""
    names = ("promptfed", "torch", "python", "system", "threads", "accelerator")
    changes = [
        f"{name} was {_shown(previous[name])} and is {_shown(current[name])}"
        for name in names
        if name in previous and previous[name] != current[name]
    ]
    return "; ".join(changes)


def _beginning(config: RunConfig) -> dict[str, Any]:
    return {
        "method": config.method,
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
        "environment": environment(),
    }


def _check_same(
    config: RunConfig, events: EventLog, knows_backbone: bool, defaults: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise RunError if the options in ``config`` train something else than the run's first options."""
    original = next((event["config"] for event in events.read() if "config" in event), None)
    if original is None:
        return
    original = with_defaults(original, defaults)
    if changes := differences(original, config.model_dump(mode="json"), knows_backbone=knows_backbone):
        raise RunError(
            f"config.yaml of run '{printable(events.path.parent)}' has changed since the run started: "
            f"{changes}. Put it back, or train anew: promptfed train --config FILE --run DIR"
        )


def with_defaults(options: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return ``options`` with the ``defaults`` of what its sections lack: a newer version's options."""
    sections = {name: {**values, **options[name]} for name, values in defaults.items() if options.get(name)}
    return {**options, **sections}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, knows_backbone: bool = False) -> str:
    """Return in words the options that differ although a run must keep them; empty if none do.

    The backbone's name is not compared where the run knows it by its fingerprint (``check_same_model``).
    """
    may_change = MAY_CHANGE | MOVED if knows_backbone else MAY_CHANGE
    names = [name for name in sorted({*old, *new} - may_change) if _value(old, name) != _value(new, name)]
    return "; ".join(f"{n} was {_shown(old.get(n))} and is {_shown(new.get(n))}" for n in names)


def _value(options: Mapping[str, Any], name: str) -> Any:
    value = options.get(name)
    if name in ("objects", "processors", "attack_options", "privacy_options"):  # runs of promptfed 0.1 had none
        return value or None
    if name == "oracle_options" and isinstance(value, dict):
        return {option: setting for option, setting in value.items() if option not in ORACLE_MAY_CHANGE}
    return value


def _shown(value: Any) -> str:
    return printable(repr(value), LONGEST)


def _say_what_is_trained_again(checkpoints: Mapping[str, Checkpoint | None], say: Callable[[str], None]) -> None:
    """Report stages that have lost their checkpoints.

    Stages run one after the other, so a stage without a checkpoint before one with some has lost it.
    """
    waiting: list[str] = []
    for stage, checkpoint in checkpoints.items():
        if checkpoint is None:
            waiting.append(stage)
        else:
            for name in waiting:
                say(f"the checkpoints of {name} are gone: it is trained again, and its work counts twice in the cost")
            waiting = []


def environment_of(events: list[Event]) -> dict[str, Any]:
    """Return the environment of the run's last start or continuation; empty for a log of an earlier version."""
    return next((event["environment"] for event in reversed(events) if "environment" in event), {})
