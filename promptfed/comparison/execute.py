"""Run a plan: each (method, seed) has its own run directory. Nothing is loaded, encoded or trained twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from promptfed.comparison.plan import LOCAL_ONLY, Plan, words
from promptfed.comparison.summary import summarise
from promptfed.config import RunConfig
from promptfed.engine_choice import engine_of
from promptfed.engines.base import never
from promptfed.errors import BackboneError, ConfigError, OracleError, PromptFedError, RunError, TrainingError
from promptfed.evaluation import validate
from promptfed.experiment import Experiment
from promptfed.measures.selection import Selection
from promptfed.objects import NO_OBJECTS, Objects
from promptfed.observers.audience import warner, watch
from promptfed.observers.base import Observer
from promptfed.observers.choose import ObserverChoices, build_observers
from promptfed.printable import LONGEST, printable
from promptfed.progress import ComparisonProgress
from promptfed.report.html import REPORT_FILE, write_report
from promptfed.report.outcome import run_outcome
from promptfed.runs.directory import RunDirectory, is_run
from promptfed.same_options import what_counts
from promptfed.training import Interrupted, Training

log = logging.getLogger(__name__)
VALIDATION = "validation.json"


class Comparison:
    """Compare methods in one folder: ``METHOD/seed-S`` is one run, ``search/METHOD/VALUES`` one trial of the search.

    Finished runs with the same options are kept, and interrupted ones are resumed.

    Attributes:
        plan: The methods, seeds and options.
        folder: The folder of the comparison.
        progress: Shows the progress to the user.
        should_stop: Returns whether to stop.
        objects: The Python objects that the options refer to.
        observers: What receives the figures of each run.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        progress: ComparisonProgress | None = None,
        should_stop: Callable[[], bool] = never,
        objects: Objects = NO_OBJECTS,
        observers: ObserverChoices = (),
    ) -> None:
        self.plan, self.folder, self.objects = plan, folder, objects
        self.progress, self.should_stop = progress or ComparisonProgress(), should_stop
        self.observers = [observers] if isinstance(observers, str | Observer | Mapping) else list(observers)
        build_observers(self.observers)
        self.left_out: dict[str, str] = {}
        """Method -> why it is not compared, or not to the end."""
        self.search: dict[str, dict[str, Any]] = {}
        self._first: Experiment | None = None
        self._shown_notes: set[str] = set()
        self._seconds: dict[str, list[float]] = {}
        self._run_number = 0

    def execute(self) -> dict[str, Any]:
        """Execute the whole plan and return its summary.

        Raises:
            Interrupted: ``should_stop`` asked for a stop.
            RunError: The data or the model cannot be used by any method, or a folder has other options.
        """
        for method in self.plan.methods:
            self._run_or_leave_out(method, lambda method=method: self._tune(method))  # type: ignore[misc]
        for method, seed in self.plan.runs:
            self._run_or_leave_out(method, lambda method=method, seed=seed: self._run(method, seed))  # type: ignore[misc]
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """Summarise the runs that are finished."""
        return summarise(self.plan, self.folder, self.left_out, self.search)

    def _run_or_leave_out(self, method: str, work: Callable[[], None]) -> None:
        """Do ``work``, and leave ``method`` out from here on if it does not fit or fails.

        What ends every method is raised: a stop, bad data, a model that does not answer, a full disk.
        """
        if method in self.left_out:
            self._run_number += 1
            return
        try:
            work()
        except (Interrupted, RunError, OracleError, OSError):
            raise
        except (ConfigError, BackboneError) as error:
            self._leave_out(method, f"does not fit: {error}")
        except PromptFedError as error:
            self._leave_out(method, f"failed: {error}")
        except Exception as error:  # a fault of this method's code must not cost the others their runs
            log.exception("%s failed", method)
            self._leave_out(method, f"failed: {type(error).__name__}: {printable(error, LONGEST)}")

    def _leave_out(self, method: str, why: str) -> None:
        self.left_out[method] = why
        self.progress.note(f"{method} is left out: {why}")

    # ------------------------------------------------------------------------------------------------ one run

    def _run(self, method: str, seed: int) -> None:
        config = self.plan.config(method, seed, self.search.get(method, {}).get("chosen"))
        folder = self.folder / method / f"seed-{seed}"
        run = opened(folder, config)
        if run is None or run.read_metrics() is None:
            what, alone = f"{method}, seed {seed}", method == self.plan.alone
            metrics = self._work(config, folder, what, lambda training: training.execute(), alone=alone)
            write_report(RunDirectory.open(folder))
            self.progress.end(metrics["method"])
            return
        self._run_number += 1
        if not (folder / REPORT_FILE).exists():  # a run of promptfed 0.1
            write_report(run)

    def _tune(self, method: str) -> None:
        """Try the grid on the tuning partition and note the values that are best on its *validation* images."""
        trials: list[dict[str, Any]] = []
        for values in self.plan.variants(method):
            try:
                trials.append({"values": values, **self._trial(method, values)})
            except TrainingError as error:
                trials.append({"values": values, "local": None, "base": None, "hm": None, "failed": str(error)})
        if not trials:
            return
        selection = Selection.of(self.plan.tuning_config(method, trials[0]["values"]).selection)
        best = trials[selection.best([trial["hm"] for trial in trials])]
        if best["hm"] is None:
            raise TrainingError(best["failed"])
        self.search[method] = {"chosen": best["values"], "tried": trials}

    def _trial(self, method: str, values: dict[str, Any]) -> dict[str, Any]:
        config = self.plan.tuning_config(method, values)
        folder = self.folder / "search" / method / words(values)
        run = opened(folder, config)
        figures = None if run is None else run.read_json(VALIDATION)
        if figures is not None:
            self._run_number += 1
            return figures

        def train_and_judge(training: Training) -> dict[str, Any]:
            federation, state = training.train()[method]
            judged = asdict(validate(federation.method, federation.prompts(state), training.experiment.task))
            training.run.write_json(VALIDATION, judged)
            return judged

        figures = self._work(config, folder, f"{method}, search {words(values)}", train_and_judge)
        self._tell_trial(config, figures)
        return figures

    def _tell_trial(self, config: RunConfig, figures: Mapping[str, Any]) -> None:
        """Show the figures of a trial: of another measure than accuracy, they are no shares to be shown as such."""
        selection = Selection.of(config.selection)
        if selection.is_accuracy:
            self.progress.end(figures)
        else:
            name = selection.measure.name
            self.progress.note(f"validation: local {name} {figures['local']:.3f}  base {name} {figures['base']:.3f}")

    def _work(
        self,
        config: RunConfig,
        folder: Path,
        what: str,
        work: Callable[[Training], dict[str, Any]],
        *,
        alone: bool = False,
    ) -> dict[str, Any]:
        """Do ``work`` on the run in ``folder``, which is created if it is missing.

        With ``alone`` it has a stage for local-only, unless the options or a paid model forbid that.
        """
        total = len(self.plan.trials) + len(self.plan.runs)
        self._run_number += 1
        if self.should_stop():
            raise Interrupted(f"before {what}")
        start_time = time.perf_counter()
        self.progress.begin(
            self._run_number, total, what, self._seconds_left(config.method, total - self._run_number + 1)
        )
        experiment = self._experiment(config)
        baselines = tuple(name for name in experiment.baselines if alone and name == LOCAL_ONLY)
        run = opened(folder, config) or RunDirectory.create(folder, config, label="")
        with run.lock(), run.attach_log(), engine_of(config, self.objects) as engine:
            training = Training(experiment, run, self.progress, self.should_stop, baselines=baselines, engine=engine)
            training.check_same_run()
            if run.config != config:  # in another place, or with a larger budget
                run.reconfigure(config)
            with watch(
                run, training.identity, build_observers(self.observers),
                note=self.progress.note, warn=warner(self.progress), stop=Interrupted,
                name="-".join(folder.resolve().relative_to(self.folder.resolve().parent).parts),
            ) as audience:  # fmt: skip
                result = work(training)
                if (metrics := run.read_metrics()) is not None:
                    audience.end(run_outcome(metrics))
        self._seconds.setdefault(config.method, []).append(time.perf_counter() - start_time)
        return result

    def _experiment(self, config: RunConfig) -> Experiment:
        """Build the experiment of a run, which shares task, model and features with the run before.

        Raises:
            ConfigError: The method does not fit the task or the model.
            RunError: The data or the model cannot be used by any method.
        """
        without = {"method": "zero_shot", "method_options": {}, "aggregator": "mean", "aggregator_options": {}}
        plain = config.model_copy(update={**without, "processors": (), "attack_options": {}, "privacy_options": {}})
        try:
            self._first = Experiment.build(plain, like=self._first, objects=self.objects)
        except PromptFedError as error:  # of the data or the backbone: no method could run
            raise RunError(str(error)) from error
        for note in self._first.notes:
            if note not in self._shown_notes:
                self.progress.note(f"note: {note}")
        self._shown_notes.update(self._first.notes)
        experiment = Experiment.build(config, like=self._first, objects=self.objects)
        experiment.check_feasible()
        return experiment

    def _seconds_left(self, method: str, runs: int) -> float | None:
        """Estimate the seconds of the last ``runs`` runs of the plan from the finished ones; None before the first."""
        if not self._seconds:
            return None
        means = {name: fmean(each) for name, each in self._seconds.items()}
        usual = fmean(means.values())
        queue = [name for name, _ in (*self.plan.trials, *self.plan.runs)][-runs:]
        return sum(means.get(name, usual) for name in queue if name not in self.left_out)


def opened(folder: Path, config: RunConfig) -> RunDirectory | None:
    """Open the run in ``folder``; None if there is none.

    Raises:
        RunError: The run has other options than ``config``.
    """
    if not is_run(folder):
        return None
    run = RunDirectory.open(folder)
    theirs, ours = (what_counts(each) for each in (run.config, config))
    if theirs == ours:
        return run
    different = [f"{name} {theirs[name]} instead of {ours[name]}" for name in ours if theirs[name] != ours[name]]
    raise RunError(
        f"'{folder}' was made with other options ({'; '.join(different)}): choose another --out DIR, or delete it"
    )
