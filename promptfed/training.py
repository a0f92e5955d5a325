"""One whole run: features, honest baselines, the method, evaluation; checkpointed so that nothing is lost."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from promptfed.blackbox.oracles.spent import note_spent
from promptfed.counts import number_or_dash
from promptfed.drift import relative_change
from promptfed.engines.base import Engine, never
from promptfed.errors import BudgetExhausted, OracleError, OracleHalted, TrainingError
from promptfed.evaluation import Evaluation, Evaluator, LocalEvaluator
from promptfed.evaluation_event import evaluation_event
from promptfed.experiment import Experiment
from promptfed.federation import Federation
from promptfed.kept_text import kept_words, unmarked
from promptfed.method import Method
from promptfed.option_defaults import section_defaults
from promptfed.privacy.account import LimitReached
from promptfed.privacy.run_examples import RunExamples
from promptfed.privacy.run_release import RunRelease
from promptfed.progress import Progress
from promptfed.result_notes import figure_notes
from promptfed.run_details import write_details
from promptfed.run_metrics import near_chance, run_metrics
from promptfed.run_privacy import private_federation, write_statement
from promptfed.runs.checkpoint import PERSONAL_FOLDER, Checkpoint, load_checkpoint, save_checkpoint
from promptfed.runs.client_events import broadcast_sizes, bytes_down, bytes_up, client_event, sum_events
from promptfed.runs.directory import DETAILS, RunDirectory
from promptfed.runs.journal import begin_or_continue, check_options, whole_log
from promptfed.runs.ledger import cost_of
from promptfed.runs.model import check_same_model, has_fingerprint
from promptfed.runs.partition_check import check_partition
from promptfed.runs.partition_file import partition_record, read_partition, write_partition
from promptfed.runs.passport import check_lost_partition, identity_of, write_passport
from promptfed.runs.personal_store import MOST_IN_MEMORY, on_disk
from promptfed.runs.plugin_tokens import remember_plugins
from promptfed.stderr_log import TOLD
from promptfed.tasks.client_sample import with_sampled_clients
from promptfed.types import FederationState, Incident, Reply
from promptfed.warm_start import first_shared
from promptfed.zero_shot_choice import choose

log = logging.getLogger(__name__)


class Interrupted(Exception):  # noqa: N818 (a request that was granted, not an error)
    """The run was asked to stop and is saved; ``where`` says how far it got."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where

    code = 130
    """What the command line exits with."""


class OutOfBudget(Interrupted):
    """The run stopped at what it may spend on a black box; it goes on when it may spend more."""

    code = 3


class Training:
    """Runs, or goes on with, the run in ``run``; the same configuration always ends with the same prompts."""

    def __init__(
        self,
        experiment: Experiment,
        run: RunDirectory,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] = never,
        baselines: Sequence[str] | None = None,
        engine: Engine | None = None,
        evaluator: Evaluator | None = None,
    ) -> None:
        self.experiment, self.run, self.engine = experiment, run, engine
        self.evaluator = evaluator or LocalEvaluator(experiment.task, experiment.measures)
        limit, seed = experiment.config.validate_clients, experiment.config.seed
        validated = with_sampled_clients(experiment.task, limit, seed, "validation clients")
        self.validator = evaluator or LocalEvaluator(validated)
        self.baselines = experiment.baselines if baselines is None else baselines
        self.model = experiment.setup.model
        self.model.keep_account_in(run.path)
        self.model.stop_when(should_stop)
        self.progress, self.should_stop = progress or Progress(), should_stop
        self.identity = ""  # of the run, once it is opened
        self.account: RunRelease | RunExamples | None = None  # of a private run, once it trains
        self._opened: tuple[dict[str, Any], dict[str, Any], dict[str, Checkpoint | None]] | None = None

    def check_same_run(self) -> None:
        """Compare what was begun with what is there now, and change nothing in the run.

        Data, backbone, checkpoints and options are compared.

        Raises:
            RunError: The run cannot go on with them.
        """
        self._opened = _, record, saved = self._open()
        config, knows_backbone = self.experiment.config, has_fingerprint(record)
        defaults = section_defaults(config)
        check_options(config, self.run.events, saved.values(), knows_backbone=knows_backbone, defaults=defaults)

    def execute(self) -> dict[str, Any]:
        """Do the whole run.

        Returns:
            The content of ``metrics.json``.

        Raises:
            Interrupted: The user asks to stop.
        """
        trained = self.train()
        evaluations = {}
        for stage, found in trained.items():
            with self.model.account(stage=stage), _stopping(f"{found[0].method.name}, in its tests"):
                evaluations[stage] = self._evaluate(stage, *found)
        self.model.check_answers()
        self.model.verify_frozen()
        if self.engine is not None:
            self.engine.verify_frozen()
        note_spent(self.model, self.run.events.write)
        self.run.events.write("run_end")
        experiment, stage = self.experiment, self.experiment.config.method
        metrics = run_metrics(experiment, self.run.events.read(), evaluations, trained)
        notes = figure_notes(experiment.task, evaluations[stage].figures, experiment.examples)
        for note in (*experiment.run_notes, *notes):
            log.warning(note, extra=TOLD)
        write_details(experiment, self.run, trained[stage], evaluations[stage])
        metrics["privacy"] = write_statement(experiment, self.run, trained[stage], self.account)
        self.run.write_metrics(metrics)
        write_passport(self.run, self.run.read_json("partition.json") or {}, self.identity, is_finished=True)
        return metrics

    def train(self) -> dict[str, tuple[Federation, FederationState]]:
        """All but the tests: each stage's federation after its last round. Raises Interrupted when asked to stop."""
        stages = self._stages()
        partition, record, saved = self._opened or self._open()
        self._opened = None
        if self.model.spent() is not None:
            log_before = whole_log(self.run.events, saved.values())
            self.model.recover_account(log_before, has_checkpoints=any(saved.values()), say=self._warn)
        begin_or_continue(
            self.run.events,
            self.experiment.config,
            saved,
            self._warn,
            knows_backbone=has_fingerprint(record),
            defaults=section_defaults(self.experiment.config),
        )
        note_spent(self.model, self.run.events.write)
        for name in ("metrics.json", DETAILS):
            self.run.remove(name)
        self._fill_features()
        write_passport(self.run, write_partition(self.run, partition), self.identity)
        remember_plugins(self.run)

        trained = {}
        for stage, base in stages:
            checkpoint = saved[stage]
            with self.model.account(stage=stage), _stopping(f"{stage}, at its start"):
                federation = self._federation(stage, base, checkpoint.state.round if checkpoint else 0)
                state = self._federate(stage, federation, base, checkpoint.state if checkpoint else None)
            if note := near_chance(self.experiment.task, federation, state):
                self._warn(note)
            trained[stage] = federation, state
        return trained

    def _federation(self, stage: str, is_baseline: bool, round: int) -> Federation:
        """Return the federation of ``stage``, ``round`` of whose rounds are finished; a private run's has a release."""
        if is_baseline:
            return self.experiment.federation(stage, self.engine)
        federation, self.account = private_federation(self.experiment, self.run.path, self.engine, round)
        return federation

    def _last_round(self, method: Method, state: FederationState, is_baseline: bool) -> int:
        """Return the last round that the run may afford; says so if that is before the last one planned."""
        if self.account is None or is_baseline:
            return method.rounds
        last = self.account.last_round(state.round, method.rounds)
        if last < method.rounds:
            limit = self.experiment.privacy.epsilon
            self._warn(f"{method.name} ends after round {last} of {method.rounds}: privacy.epsilon={limit:g} is spent")
        return last

    def _open(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Checkpoint | None]]:
        """Return the partition, what the run keeps of its own, and the newest checkpoint of each stage."""
        record = read_partition(self.run)
        partition = partition_record(self.experiment.task, self.model, self.experiment.method().basis)
        check_partition(record, partition, self.run.path)
        check_same_model(self.run.path, record or {}, self.model, partition.get("basis", ""))
        folders = {stage: self.run.stage_folder(stage, is_baseline=base) for stage, base in self._stages()}
        saved = {stage: load_checkpoint(folder, self._warn) for stage, folder in folders.items()}
        if record is None and any(saved.values()):
            self._warn(check_lost_partition(self.run, partition))
        self.identity = identity_of(self.run, saved)
        return partition, record or {}, saved

    def _warn(self, line: str) -> None:
        """Tell whoever watches and whoever reads run.log later."""
        log.warning(line, extra=TOLD)
        self.progress.note(f"note: {line}")

    def _save(self, folder: Path, state: FederationState, size: int | None = None) -> None:
        """Write a checkpoint that goes with the first ``size`` bytes of the event log, None for all of it."""
        events = self.run.events
        note_spent(self.model, events.write)
        size = events.size() if size is None else size
        save_checkpoint(folder, state, events_bytes=size, events_sha256=events.sha256(size), run=self.identity)

    def _stages(self) -> list[tuple[str, bool]]:
        """(name, is baseline) in the order in which they run; a method that is itself a baseline runs once."""
        method = self.experiment.config.method
        return [(name, True) for name in self.baselines if name != method] + [(method, False)]

    def _fill_features(self) -> None:
        began, before = time.perf_counter(), self.model.usage()

        def on_features(done: int, total: int) -> None:
            self.progress.features(done, total)
            if self.should_stop():
                raise Interrupted(f"{done} of {total} examples encoded (they are kept)")

        self.experiment.fill_features(on_features)
        usage = (self.model.usage() - before).recorded()
        self.run.events.write("features", seconds=time.perf_counter() - began, **usage)

    def _federate(
        self, stage: str, federation: Federation, is_baseline: bool, saved: FederationState | None
    ) -> FederationState:
        method = federation.method
        folder = self.run.stage_folder(stage, is_baseline=is_baseline)
        first = None if saved or stage != self.experiment.config.method else first_shared(self.run, method)
        state = federation.resumed(saved) if saved else federation.start(first)
        if len(federation.clients) > MOST_IN_MEMORY or (self.engine is not None and self.engine.builds_from_config):
            state = replace(state, personal=on_disk(state.personal, folder / PERSONAL_FOLDER, state.round))
        cost = cost_of(self.run.events.read(), stage)
        clients = len(federation.participants(1))
        self.progress.stage(method.name, method.rounds, clients, state.round, cost.bytes_up + cost.bytes_down)
        limited: set[int | None] = set()
        rounds = self._last_round(method, state, is_baseline)
        if state.round < rounds:
            state = unmarked(state)
        while state.round < rounds:
            began, size = time.perf_counter(), self.run.events.size()
            broadcasts = federation.broadcasts(state)
            sizes = broadcast_sizes(broadcasts)

            def on_reply(reply: Reply, sizes: dict[int, int] = sizes) -> None:
                self._record(stage, reply, sizes[reply.client])
                self.progress.client(method.name, reply)

            def on_incident(incident: Incident) -> None:
                self.run.events.write("incident", stage=stage, **dataclasses.asdict(incident))
                if incident.kind != "limited" or incident.client not in limited:  # once a client is enough
                    log.warning("%s: %s", method.name, incident.why, extra=TOLD)
                    self.progress.incident(method.name, incident)
                if incident.kind == "limited":
                    limited.add(incident.client)

            try:
                if self.account is not None and not is_baseline:
                    self.account.charge(state.round + 1, broadcasts)
                after, replies = federation.run_round(state, on_reply, self.should_stop, on_incident, broadcasts)
                if not after.pending:
                    passed = time.perf_counter() - began, relative_change(state.shared, after.shared)
                    self._finish_round(stage, federation, after, replies, sizes, *passed)
                    if after.round == rounds:
                        after = self._chosen(stage, federation, after)
            except LimitReached as stop:
                self._warn(f"{method.name} ends after round {state.round} of {method.rounds}: {stop}")
                self._save(folder, state, size)
                break
            except (BudgetExhausted, OracleError) as stop:
                # The round is begun anew later: all the answers until now are in the cache.
                self._save(folder, state, size)
                if isinstance(stop, OracleHalted):
                    raise Interrupted(f"{method.name}, in round {state.round + 1} of {method.rounds}: {stop}") from stop
                if isinstance(stop, OracleError):
                    raise
                raise OutOfBudget(f"{method.name}, in round {state.round + 1} of {method.rounds}: {stop}") from stop
            state = after
            if state.pending:
                self._save(folder, state)
                raise Interrupted(
                    f"{method.name}, round {state.round + 1} of {method.rounds}, "
                    f"after client {state.pending[-1].client}"
                )
            self._save(folder, state)
            if self.should_stop():
                raise Interrupted(f"{method.name}, after round {state.round} of {method.rounds}")
        self._check_somebody_trained(stage)
        method.check_trained(state.shared)
        return state

    def _check_somebody_trained(self, stage: str) -> None:
        """Raise TrainingError if no client ever sent a usable update, and some failed with an error.

        A round in which all clients fail ends a run at once; this is for rounds in which some do.
        """
        failures = [e.get("failure") for e in self.run.events.read() if e["event"] == "client" and e["stage"] == stage]
        faults = [failure for failure in failures if failure and failure.startswith(("error", "refused"))]
        if faults and all(failures):
            raise TrainingError(f"no update of {stage} could be used in any round: {faults[0].partition(': ')[2]}")

    def _record(self, stage: str, reply: Reply, sent: int) -> None:
        self.run.events.write("client", **client_event(stage, reply, sent))

    def _finish_round(
        self,
        stage: str,
        federation: Federation,
        state: FederationState,
        replies: tuple[Reply, ...],
        sizes: dict[int, int],
        seconds: float,
        drift: float,
    ) -> None:
        method, good = federation.method, [r for r in replies if not r.failure]
        loss = fmean(r.update.loss for r in good) if good else float("nan")
        up, down = sum(map(bytes_up, replies)), sum(bytes_down(r, sizes[r.client]) for r in replies)
        for fields in sum_events(stage, replies):
            self.run.events.write("sum", **fields)
        before, began = self.model.usage(), time.perf_counter()
        val_accuracy = self._validated(federation, state)
        self.run.events.write(
            "round",
            stage=stage,
            round=state.round,
            loss=loss,
            accuracy=fmean(r.update.accuracy for r in good) if good else float("nan"),
            val_accuracy=val_accuracy,
            drift=drift,
            bytes_up=up,
            bytes_down=down,
            clients=len(replies),
            failed=len(replies) - len(good),
            seconds=seconds,
        )
        usage, seconds = (self.model.usage() - before).recorded(), time.perf_counter() - began
        self.run.events.write("validation", stage=stage, round=state.round, seconds=seconds, **usage)
        self.progress.round(method.name, state.round, loss, val_accuracy, up + down, self.model.spent())
        figures = number_or_dash(loss, 4), number_or_dash(val_accuracy, 4)
        log.info("%s round %d: loss %s, validation accuracy %s", method.name, state.round, *figures)

    def _chosen(self, stage: str, federation: Federation, state: FederationState) -> FederationState:
        """``state``, marked if validation chose the zero-shot prompt instead of what a black-box method trained."""
        before, began = self.model.usage(), time.perf_counter()
        state, choice = choose(federation, state, self.experiment.task)
        if choice is not None:
            self.run.events.write(
                "selection",
                stage=stage,
                round=state.round,
                seconds=time.perf_counter() - began,
                **dataclasses.asdict(choice),
                **(self.model.usage() - before).recorded(),
            )
            if words := kept_words(state):
                log.info("%s: %s (validation: %.4f, trained %.4f)",
                         federation.method.name, words, choice.zero_shot, choice.trained)  # fmt: skip
        return state

    def _validated(self, federation: Federation, state: FederationState) -> float:
        """Mean accuracy on validation data; NaN in rounds that the run does not look at."""
        every, rounds = self.experiment.config.validate_every, federation.method.rounds
        if not every or (state.round % every and state.round < rounds):
            return float("nan")
        return self.validator.validate(federation, state)

    def _evaluate(self, stage: str, federation: Federation, state: FederationState) -> Evaluation:
        before, began = self.model.usage(), time.perf_counter()
        found = self.evaluator.evaluate(federation, state)
        names = {summary.client: summary.name for summary in self.experiment.task.summaries()}
        self.run.events.write(
            "evaluation",
            **evaluation_event(stage, found, names),
            seconds=time.perf_counter() - began,
            **(self.model.usage() - before).recorded(),
        )
        return found


@contextmanager
def _stopping(where: str) -> Iterator[None]:
    """Turn a used-up budget into a stop: what is trained is saved, and answers are in the cache."""
    try:
        yield
    except BudgetExhausted as stop:
        raise OutOfBudget(f"{where}: {stop}") from stop
    except OracleHalted as stop:
        raise Interrupted(f"{where}: {stop}") from stop
