"""One run, finished or not: its figures and prompts, and all that can be done with it afterwards."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from promptfed.config import Options, RunConfig, in_sections, validate
from promptfed.cross_dataset import evaluate_on
from promptfed.errors import BudgetExhausted, RunError
from promptfed.export.finished import FinishedRun
from promptfed.export.formats import export_format, write_export
from promptfed.files.paths import checked_path
from promptfed.finished_experiment import finished_experiment
from promptfed.frozen_model import FrozenModel
from promptfed.learned_prompt import LearnedPrompt
from promptfed.object_options import read_data
from promptfed.objects import NO_OBJECTS, Objects
from promptfed.observers.base import Observer
from promptfed.observers.choose import ObserverChoices, build_observers
from promptfed.oracle_options import OracleOptions
from promptfed.personalize.every_client import decided, personalize_run
from promptfed.personalize.options import PersonalizeOptions, parse_alphas
from promptfed.progress import Progress
from promptfed.python_words import Words, in_python, said_in, told_in
from promptfed.report.html import write_report
from promptfed.report.live import live_progress
from promptfed.report.notebook import run_html
from promptfed.report.tables import percent
from promptfed.resume_options import resumed
from promptfed.runner import carry_out, stop_on_ctrl_c
from promptfed.runs.checkpoint import newest_round
from promptfed.runs.directory import RunDirectory
from promptfed.runs.events import Event
from promptfed.training import Interrupted, OutOfBudget

log = logging.getLogger(__name__)
M = TypeVar("M", bound=Callable[..., Any])


def _in_its_words(method: M) -> M:
    """Decorate a method of ``Run``: its errors are in the words of the run's caller."""

    @wraps(method)
    def called(run: Run, *args: Any, **options: Any) -> Any:
        with said_in(run.words):
            return method(run, *args, **options)

    return cast(M, called)


class Run:
    """A run in its folder. Get one by ``promptfed.train`` (a new run) or ``promptfed.load_run`` (an existing one).

    For example::

        run = promptfed.load_run("runs/NAME")
        run.metrics["method"]["base"]  # such as 0.538
        run.export(client=0, path="bundle")
    """

    def __init__(self, folder: RunDirectory, objects: Objects = NO_OBJECTS, words: Words = in_python) -> None:
        """``words`` puts messages into the words of the caller: Python's, or ``str`` for those of the command line."""
        self.folder, self.objects, self.words = folder, objects, words
        self._finished: FinishedRun | None = None

    # -------------------------------------------------------------------------------------------- what it is

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    @property
    def config(self) -> RunConfig:
        """The options of the run."""
        return self.folder.config

    @property
    def round(self) -> int:
        """The last round of the method that is finished, 0 before the first."""
        return newest_round(self.folder.stage_folder(self.config.method, is_baseline=False))

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds: figures of zero_shot, local_only and method, cost, notes.

        Raises RunError while the run is not finished.
        """
        metrics = self.folder.read_metrics()
        if metrics is None:
            raise RunError(
                f"run '{self.path}' is not finished: it has {self.round} of {self.config.rounds} rounds and no "
                "figures; run.resume() goes on"
            )
        return metrics

    @property
    def is_finished(self) -> bool:
        """Whether all rounds and all tests are done."""
        return self.folder.read_metrics() is not None

    @property
    def events(self) -> list[Event]:
        """All that happened, oldest first (``events.jsonl``)."""
        return self.folder.events.read()

    def __repr__(self) -> str:
        base = (self.folder.read_metrics() or {}).get("method", {}).get("base")
        state = f"round {self.round} of {self.config.rounds}" if base is None else f"base {percent(base)} %"
        return f"<run {str(self.path)!r}: {self.config.method} on {self.config.data}, {state}>"

    def _repr_html_(self) -> str:
        """Return the table of results and the curves, as a notebook shows them."""
        return run_html(self.folder, repr(self))

    # -------------------------------------------------------------------------------------------- what it learned

    @property
    @_in_its_words
    def finished(self) -> FinishedRun:
        """The run's method with its frozen model, loaded when first used, and its prompts after the last round.

        Raises RunError before the first round is finished.
        """
        if self._finished is None or self._finished.state.round != self.round:
            self._finished = FinishedRun.load(self.folder, objects=self.objects)
        return self._finished

    @_in_its_words
    def prompt(self, client: int | None = None) -> LearnedPrompt:
        """Return what ``client`` deploys after training; None: what somebody gets who never took part."""
        self._check_client(client)
        return LearnedPrompt(client, self.finished.prompt(client), self.finished.method)

    def _check_client(self, client: int | None) -> None:
        names = self.finished.names
        if client is not None and client not in names:
            raise RunError(f"run '{self.path}' has no client {client}; it has {', '.join(map(str, sorted(names)))}")

    # -------------------------------------------------------------------------------------------- what can be done

    @_in_its_words
    def resume(
        self,
        rounds: int | None = None,
        *,
        progress: bool | Progress = True,
        observers: ObserverChoices = (),
        **changed: Any,
    ) -> Run:
        """Go on where the run stopped; return it when it is finished.

        Args:
            rounds: A larger number of rounds than the run has; None: those that are left.
            progress: Show a progress bar on stderr, or an object that is told what happens.
            observers: Trackers, as of ``promptfed.train``. Each continues the record that it has of the run.
            changed: A larger budget (max_calls, max_tokens, max_usd), or another place to work (engine, device,
                backbone, base_url, ...); ``promptfed list options`` marks all that may change.

        Raises:
            KeyboardInterrupt: After Ctrl-C. All that was done is saved.
            BudgetExhausted: What may be spent on a black box is used up. All that was done is saved.
            PromptFedError: The run cannot go on.
        """
        changed = in_sections(changed, OracleOptions.model_fields)
        changes = changed if rounds is None else {**changed, "rounds": rounds}
        self._carry_out(progress, build_observers(observers), changes=changes)
        return self

    @_in_its_words
    def _carry_out(
        self,
        progress: bool | Progress,
        observers: Sequence[Observer],
        *,
        is_new: bool = False,
        changes: Options | None = None,
    ) -> None:
        with live_progress(progress) as live, stop_on_ctrl_c(live.note) as should_stop:
            teller = told_in(self.words, live)

            def change(config: RunConfig) -> RunConfig:
                return resumed(config, changes or {}, self.path, teller.note)

            try:
                carry_out(
                    self.folder,
                    teller,
                    should_stop,
                    change=change,
                    is_new=is_new,
                    objects=self.objects,
                    observers=observers,
                )
            except OutOfBudget as stopped:
                raise BudgetExhausted(
                    f"{stopped.where}. Saved; run.resume() goes on with a larger max_calls, max_tokens or max_usd"
                ) from stopped
            except Interrupted as stopped:
                raise KeyboardInterrupt(f"stopped: {stopped.where}. Saved; run.resume() goes on") from stopped

    @_in_its_words
    def evaluate(
        self,
        data: Any = (),
        *,
        class_names: Sequence[str] | None = None,
        partition: str | None = None,
        data_root: str | os.PathLike[str] | None = None,
        measures: str | Sequence[str] | None = None,
        progress: bool | Progress = True,
    ) -> dict[str, dict[str, Any]]:
        """Score the run's prompts on its own test examples and on those of other ``data``.

        Args:
            data: Names of other data sets, or an object with examples as ``promptfed.train`` takes it.
            class_names: The classes of such an object.
            partition: How they are dealt out to clients.
            data_root: Where they are kept.
            measures: Figures beside accuracy, such as "macro_f1"; None: the run's.
            progress: Show a progress bar on stderr, or an object that is told what happens.

        Returns:
            Data set -> figures of ``zero_shot`` and ``method``. On other data all clients have the shared prompt.
        """
        is_named = isinstance(data, str | os.PathLike) or not len(data) or isinstance(next(iter(data)), str)
        if isinstance(data, Mapping) or not is_named:
            names, object_data = [], read_data(self.config, data, None, class_names)
        else:
            names, object_data = [os.fspath(data)] if isinstance(data, str | os.PathLike) else list(data), None
        changed = {"partition": partition, "data_root": None if data_root is None else os.fspath(data_root)}
        with live_progress(progress) as teller:
            return evaluate_on(
                self.finished,
                names,
                {k: v for k, v in changed.items() if v is not None},
                told_in(self.words, teller),
                measures,
                object_data,
            )

    @_in_its_words
    def personalize(
        self,
        *,
        alphas: str | Sequence[float] = "0,0.1,...,1",
        progress: bool | Progress = True,
        **options: Any,
    ) -> dict[str, Any]:
        """Fine-tune the shared prompt on every client, and mix the two as its validation examples say.

        Args:
            alphas: Shares of the client's own prompt to try.
            progress: Show a progress bar on stderr, or an object that is told what happens.
            options: method ("finetune" or "none"), lr, epochs, l2_to_global, space ("prompt" or "features").

        Returns:
            The curve of accuracy over alpha, and each client's choice: what ``personalized/curve.json`` holds.
        """
        values = {**options, "alphas": parse_alphas(alphas) if isinstance(alphas, str) else tuple(alphas)}
        choices = validate(PersonalizeOptions, values, "personalize option")
        folder = self.folder
        with folder.lock(), folder.attach_log(), live_progress(progress) as teller:
            folder.tidy()
            finished = self.finished
            decided(choices, finished)
            setup = finished.method.setup
            experiment = finished_experiment(finished)
            experiment.fill_features(teller.features)
            with self._account(setup.model):
                curve = personalize_run(finished, experiment.task, choices, teller.personalized)
            setup.verify_frozen()
            write_report(folder)
        return curve

    @contextmanager
    def _account(self, model: FrozenModel) -> Iterator[None]:
        """Write what the model is asked inside into the run's account of it, and count it against the budget."""
        model.keep_account_in(self.path)
        model.recover_account(self.events, has_checkpoints=True, say=log.warning)
        with model.account(stage="personalize"):
            yield

    @_in_its_words
    def export(
        self,
        client: int = 0,
        path: str | os.PathLike[str] | None = None,
        *,
        format: str = "bundle",
        merged: bool = False,
        shared: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Write ``client``'s prompt as a self-contained bundle, or for PEFT, and return its folder.

        Args:
            client: Whose prompt; its personalised one if there is one.
            path: The folder; None: ``bundles/client-K`` in the run's (``adapters/`` for PEFT, ``onnx/``, ``merged/``),
                or ``client-K-shared``.
            format: "bundle"; "peft" for an adapter of a language model that Hugging Face's PEFT loads; "onnx" for an
                image classifier that onnxruntime runs.
            merged: Write the whole language model, low-rank changes added to its weights, in a new folder.
            shared: Leave out all that is the client's own.
            overwrite: Replace a bundle or adapter that is there.
        """
        target = None if path is None else checked_path(path, "path")
        return write_export(self.finished, client, export_format(format, merged), target, shared, overwrite)

    @_in_its_words
    def report(self, *, samples: bool = True) -> Path:
        """Write ``report.html`` anew, also of an unfinished run, and return its path.

        Args:
            samples: Show the test examples that the run has kept (option ``report_samples``).
        """
        return write_report(self.folder, with_samples=samples)
