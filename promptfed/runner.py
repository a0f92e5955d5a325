"""Carry out a run in its folder: build it, train, test, write the report.

The command line, the API and the Flower server all call it.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from promptfed.comparison.execute import Comparison
from promptfed.comparison.plan import Plan
from promptfed.config import RunConfig
from promptfed.engine_choice import engine_of
from promptfed.engines.base import Engine, never
from promptfed.errors import DiskError, PromptFedError
from promptfed.evaluation import Evaluator
from promptfed.experiment import Experiment
from promptfed.named_model import named_model
from promptfed.objects import NO_OBJECTS, Objects
from promptfed.observers.audience import warner, watch
from promptfed.observers.base import Observer
from promptfed.observers.choose import ObserverChoices
from promptfed.printable import printable
from promptfed.progress import ComparisonProgress, Progress
from promptfed.report.comparison_page import write_comparison
from promptfed.report.html import write_report
from promptfed.report.outcome import run_outcome
from promptfed.resolve import warn_of_plugins
from promptfed.run_privacy import write_statement
from promptfed.runs.checkpoint import load_checkpoint
from promptfed.runs.directory import RunDirectory
from promptfed.runs.journal import note_stop
from promptfed.runs.plugin_tokens import load_remembered_plugins
from promptfed.stderr_log import TOLD
from promptfed.threads import load_warning
from promptfed.training import Interrupted, OutOfBudget, Training
from promptfed.warm_start import check_first_prompt, read_first_prompt

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunParts:
    """What a run is carried out with. ``engine`` and ``evaluator``: None for those of this process."""

    experiment: Experiment
    engine: Engine | None = None
    evaluator: Evaluator | None = None


def carry_out(
    folder: RunDirectory,
    progress: Progress,
    should_stop: Callable[[], bool] = never,
    *,
    change: Callable[[RunConfig], RunConfig] | None = None,
    is_new: bool = False,
    objects: Objects = NO_OBJECTS,
    observers: Sequence[Observer] = (),
    begin: Callable[[RunConfig], AbstractContextManager[RunParts]] | None = None,
    patience: float = 0.0,
) -> dict[str, Any]:
    """Train the run in ``folder`` to its end, from wherever it stands, and write its report.

    Args:
        folder: The run. It is locked until this returns.
        progress: Is told what happens.
        should_stop: Asked after each client; True ends the work, and all that was done is saved.
        change: Returns the options to go on with. They are kept with the run once it can begin with them.
        is_new: Remove the folder again if the run cannot begin.
        objects: What the run's config calls Python objects.
        observers: Trackers that are told of all events. One that fails is left out.
        begin: Builds what the options say, as a context that is left when the report is written; None: on
            the engine that they name, on this machine.
        patience: Seconds to wait for a process that holds the run.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        Interrupted: ``should_stop`` said so, or (OutOfBudget) what may be spent is used up.
        PromptFedError: The run cannot begin, or cannot go on.
    """
    with folder.lock(patience), folder.attach_log():
        folder.tidy()
        load_remembered_plugins(folder)
        warn_of_plugins(folder.config, f"run '{printable(folder.path)}'")
        config = folder.config if change is None else change(folder.config)
        with begin(config) if begin else _local_parts(folder, config, is_new, objects) as parts:
            experiment = parts.experiment
            training = Training(
                experiment, folder, progress, should_stop, engine=parts.engine, evaluator=parts.evaluator
            )
            training.check_same_run()  # a run that cannot go on stays as it is
            if config != folder.config:
                folder.reconfigure(config)
            if warning := load_warning(named_model(config).threads):
                log.warning(warning, extra=TOLD)
                progress.note(f"note: {warning}")
            for note in experiment.notes:
                progress.note(f"note: {note}")
            with watch(
                folder, training.identity, observers, note=progress.note, warn=warner(progress), stop=Interrupted
            ) as audience:
                metrics = _execute(training)
                audience.end(run_outcome(metrics, write_report(folder)))
    return metrics


def _execute(training: Training) -> dict[str, Any]:
    """Train to the end. If the run stops before, the reason is in its log."""
    try:
        return training.execute()
    except Interrupted as stopped:
        why = "its budget is used up: " if isinstance(stopped, OutOfBudget) else "Ctrl-C: "
        with suppress(DiskError):
            note_stop(training.run.events, why + stopped.where)
            _note_promise(training)
        raise
    except PromptFedError as error:
        with suppress(DiskError):
            note_stop(training.run.events, f"{type(error).__name__}: {error}")
        raise


def _note_promise(training: Training) -> None:
    """Write what a private run that stops has spent so far; nothing for one that has not begun to train."""
    experiment, run = training.experiment, training.run
    if training.account is None:
        return
    saved = load_checkpoint(run.stage_folder(experiment.config.method, is_baseline=False))
    if saved is not None:
        federation = experiment.federation()
        write_statement(experiment, run, (federation, federation.resumed(saved.state)), training.account)


def carry_out_comparison(
    plan: Plan,
    folder: Path,
    progress: ComparisonProgress,
    should_stop: Callable[[], bool] = never,
    objects: Objects = NO_OBJECTS,
    observers: ObserverChoices = (),
) -> tuple[dict[str, Any], list[Path]]:
    """Do all runs of ``plan`` in ``folder`` and write its tables, also of what there is when it is asked to stop.

    Each run is told to ``observers`` of its own.

    Returns:
        What ``comparison.json`` holds, and the files with the tables.

    Raises:
        Interrupted: ``should_stop`` said so.
    """
    if warning := load_warning(named_model(plan.base).threads):
        progress.note(f"note: {warning}")
    comparison = Comparison(plan, folder, progress, should_stop, objects, observers)
    try:
        summary = comparison.execute()
    except Interrupted:
        write_comparison(comparison.summary(), folder)
        raise
    return summary, write_comparison(summary, folder)


@contextmanager
def _local_parts(folder: RunDirectory, config: RunConfig, is_new: bool, objects: Objects) -> Iterator[RunParts]:
    """Yield the experiment and the engine of ``config``; a new folder is removed if either fails."""
    with ExitStack() as stack:
        try:
            experiment = Experiment.build(config, objects=objects)
            experiment.check_feasible()
            check_first_prompt(experiment, read_first_prompt(folder))
            engine = stack.enter_context(engine_of(experiment.config, objects))
        except PromptFedError:
            if is_new:
                folder.discard()
            raise
        yield RunParts(experiment, engine)


@contextmanager
def stop_on_ctrl_c(say: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Take the first Ctrl-C (or SIGTERM) for a clean stop after the current client; a second one is immediate.

    Only the main thread can listen; in another one the result never asks for a stop.
    """
    if threading.current_thread() is not threading.main_thread():
        yield never
        return
    is_asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal is_asked
        if is_asked:
            raise KeyboardInterrupt
        is_asked = True
        say("stopping after the current client (once more: at once, losing this round) ...")

    handlers = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: is_asked
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
