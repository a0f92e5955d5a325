"""A RunConfig made real: the task, the frozen backbone, its features, and the methods that use them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from pydantic import ValidationError

from promptfed.aggregators.base import Aggregator, build_aggregator
from promptfed.aggregators.mean import Mean
from promptfed.agreement import Agreement
from promptfed.attacks.base import Adversary, adversary_of, clients_together
from promptfed.build_method import build_method
from promptfed.class_lengths import check_names
from promptfed.client_batch import clients_at_once
from promptfed.config import RunConfig
from promptfed.engines.base import Engine, Worker
from promptfed.engines.local import LocalEngine
from promptfed.engines.registry import ENGINES
from promptfed.engines.worker import ClientWorker
from promptfed.errors import ConfigError
from promptfed.examples.base import ANSWER_CLASSES
from promptfed.federation import Federation, round_half_up
from promptfed.first_update import first_update
from promptfed.frozen_model import FrozenModel, OnPrepared
from promptfed.local_only_wrapper import LocalOnlyWrapper
from promptfed.measure_check import check_measures
from promptfed.measures.base import Measure, build_measures
from promptfed.method import METHODS, Method, MethodConfig
from promptfed.named_model import named_model
from promptfed.objects import NO_OBJECTS, Objects
from promptfed.option import in_groups
from promptfed.option_defaults import is_drawn
from promptfed.plugins import check_plugins
from promptfed.privacy.dpsgd import DPSGD
from promptfed.privacy.release import Release
from promptfed.privacy_check import check_ciphertexts, check_examples, check_privacy, noise_note
from promptfed.privacy_options import PrivacyOptions
from promptfed.processors.pipeline import NO_PROCESSORS, Pipeline
from promptfed.prompt_state import PromptState
from promptfed.prompt_template import PromptTemplate
from promptfed.resolve import DEFAULT_AGGREGATORS, complete
from promptfed.runs.partition_file import examples
from promptfed.setup import Setup
from promptfed.tasks.base import TASKS
from promptfed.tasks.centralized import centralize
from promptfed.text_lengths import text_length_notes
from promptfed.types import FederatedTask

log = logging.getLogger(__name__)
TASK_OPTIONS = in_groups(RunConfig, "task")
"""The options that a task is built from; two runs that agree in them have the same data."""
MODEL_OPTIONS = in_groups(RunConfig, "model", "oracle")
"""Two runs that agree in them ask the same model."""


@dataclass(frozen=True)
class Experiment:
    """Everything that does not change during a run."""

    config: RunConfig
    task: FederatedTask
    setup: Setup
    given: tuple[str, ...] = ()
    """What the caller passed as an object (task, model), which ``config`` alone cannot build again."""

    def __repr__(self) -> str:
        return f"<experiment: {self.config.method} with {self.config.data}, {self.task!r}, {self.setup.model!r}>"

    @classmethod
    def build(
        cls,
        config: RunConfig,
        like: Experiment | None = None,
        model_for: Callable[[PromptTemplate | None], FrozenModel] | None = None,
        task: FederatedTask | None = None,
        objects: Objects = NO_OBJECTS,
    ) -> Experiment:
        """Partition the data and load the model of ``config``.

        Args:
            config: The options, which need not be resolved.
            like: Another experiment. Its task, model and features are shared where they would be the same.
            model_for: Returns the model that ``config`` names for a template of examples, instead of loading it.
            task: The data, if they are partitioned already.
            objects: The Python objects that ``config`` refers to.

        Raises:
            ConfigError: Options do not go together, or do not go with the task or the model.
            BackboneError: A class name is too long for the text tower.
        """
        objects.check_classes(config)
        config = complete(config)
        check_plugins(config.plugins, "the run")  # of other code, whoever opened the run has warned
        values = {"task": task, "model": model_for}
        passed_objects = tuple(name for name, value in values.items() if value is not None)
        if task is None and like is not None and _agree(config, like.config, TASK_OPTIONS):
            task = like.task
        if task is None:
            task = objects.task_of(config)
            for note in task.notes:
                log.info(note)  # for run.log: the caller shows them to the user
        check_measures(config, task)
        if model_for is not None:
            model = model_for(task.form)
        elif like is not None and _agree(config, like.config, MODEL_OPTIONS) and task.form == like.task.form:
            model = like.setup.model
        else:
            model = objects.model_of(config, task.form)
        model.check_offers(METHODS[config.method].requires, f"method '{config.method}'")
        if task.base_classes == ANSWER_CLASSES:
            model.check_offers({"generation"}, f"task '{config.task}'")
        agreement = Agreement(
            classes=task.base_classes,
            templates=task.templates,
            rounds=config.rounds,
            seed=config.seed,
            domains=task.domains,
        )
        at_once = max(clients_at_once(config, model, task.base_classes), clients_together(config, task))
        config = config.model_copy(update={"client_batch": at_once})
        experiment = cls(config, task, Setup(model, agreement, config.selection), passed_objects)
        experiment.aggregator().check(max(1, round_half_up(config.participation * len(task.clients))))
        if experiment.aggregator().sends_peers and not METHODS[config.method].scores_peers:
            raise ConfigError(
                f"aggregator option 'reliability' is 'cross', and clients of method '{config.method}' score no prompts "
                "of others: use --method reliable, or --set aggregator.reliability=reported"
            )
        experiment.check_class_names()
        if config.processors:
            experiment.first_sending()
        if (adversary := experiment.adversary(config.method)) is not None:
            adversary.check(experiment.aggregator())
        check_ciphertexts(experiment.privacy, config.engine)
        parties = len(task.clients), config.participation
        check_privacy(experiment.privacy, experiment.method(), experiment.aggregator(), *parties)
        if experiment.privacy.dp == "example":
            check_examples(experiment.privacy, experiment.method(), experiment.train_sizes(), config.engine)
        return experiment

    @property
    def privacy(self) -> PrivacyOptions:
        """What the run promises those who hold the data."""
        return PrivacyOptions.model_validate(self.config.privacy_options)

    @property
    def baselines(self) -> tuple[str, ...]:
        """The baselines that run beside the method.

        By default those of the task, mostly zero-shot and local-only. A paid oracle has no local-only: that would
        double the bill.
        """
        if self.config.baselines is not None:
            return self.config.baselines
        usual = TASKS[self.config.task].baselines
        return tuple(name for name in usual if name != "local_only") if self.setup.model.is_paid else usual

    @property
    def measures(self) -> dict[str, Measure]:
        """The measures besides accuracy, by name."""
        return build_measures(self.config.measures)

    @property
    def examples(self) -> str:
        """What the examples are: images, texts or questions."""
        return examples(self.task)

    @property
    def model_notes(self) -> tuple[str, ...]:
        """The notes for the user on the model with these data."""
        hint = "" if is_drawn(self.config) else named_model(self.config).hint()
        return (hint,) if hint else ()

    @property
    def run_notes(self) -> tuple[str, ...]:
        """The notes on the model, on noise, and on options of the method that were chosen from these data."""
        data_notes = self.method().data_notes(self.task.clients)
        return (*self.model_notes, *self._text_notes, *self._privacy_notes, *data_notes)

    @cached_property
    def _text_notes(self) -> tuple[str, ...]:
        return text_length_notes(self.setup.model, self.task, self.method, strict=self.config.strict)

    @cached_property
    def _privacy_notes(self) -> tuple[str, ...]:
        parties = len(self.task.clients), self.config.participation
        note = noise_note(self.privacy, self.method(), self.aggregator(), *parties)
        return (note,) if note else ()

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes on the data, on the model and on the method."""
        return (*self.task.notes, *self.run_notes)

    @property
    def held_out(self) -> list[str]:
        """The domains that are tested and that no client holds."""
        return [domain for domain in self.task.domain_tests if domain not in self.task.domains]

    def check_feasible(self) -> None:
        """Check that options, data and budget allow the method a step. The model is not called.

        Raises:
            ConfigError: They do not. The message says the least value that does.
        """
        method = self.method()
        method.check_feasible((centralize(self.task) if method.is_centralized else self.task).clients)

    def check_class_names(self) -> None:
        """Check that the model reads class names, and texts.

        Raises:
            BackboneError: A base or new class's name is too long for the model's text tower.
            DataError: A text is too long, and the run is strict.
        """
        names = (*self.task.base_classes, *self.task.new_classes)
        check_names(self.setup, names, self.config.method_options, self.federation)
        _ = self._text_notes  # which checks the texts

    def fill_features(self, on_progress: OnPrepared | None = None) -> None:
        """Have the model compute the image features of all examples once, if it uses any.

        Args:
            on_progress: Receives (examples done, examples in all).
        """
        tests = (self.task.base_test, self.task.new_test, *self.task.domain_tests.values())
        client_splits = (split for data in self.task.clients for split in (data.train, data.val, data.test))
        # Clients may hold the same examples: whose content it is is asked once for each object.
        distinct = {id(item): item for split in chain(tests, client_splits) for item in split.items}
        items = {item.content_id(): item for item in distinct.values()}
        patches = "patch features" in METHODS[self.config.method].requires
        self.setup.model.prepare(list(items.values()), on_progress, patches=patches)

    def method(self, name: str | None = None) -> Method:
        """Build the run's method, or a baseline.

        A baseline takes those of the run's method options that it has, with values that it knows, and that differ from
        the method's defaults: a default such as a generator's learning rate is not meant for a baseline.

        Args:
            name: The baseline; None builds the run's method.
        """
        name, options = name or self.config.method, self.config.method_options
        if name == "local_only" and self.setup.model.kind != "dual encoder":
            return LocalOnlyWrapper(build_method(self.config.method, options, self.setup), self.aggregator())
        if name != self.config.method:
            kind, fields = METHODS[name].Config, METHODS[self.config.method].Config.model_fields
            # The options of a method that wraps another may be the other one's, which have no default here.
            defaults = {k: field.get_default() for k, field in fields.items()}
            options = {k: v for k, v in options.items() if v != defaults.get(k) and _has_option(kind, k, v)}
        return build_method(name, options, self.setup)

    def aggregator(self) -> Aggregator:
        """Build the run's aggregator."""
        return build_aggregator(self.config.aggregator or DEFAULT_AGGREGATORS[0], self.config.aggregator_options)

    def processors(self, stage: str) -> Pipeline:
        """Build what processes the updates of ``stage`` before they are sent. Those of a baseline are not processed."""
        config = self.config
        return Pipeline.build(config.processors, config.seed) if stage == config.method else NO_PROCESSORS

    def adversary(self, stage: str) -> Adversary | None:
        """Build the malicious clients of ``stage``; None for a baseline, and in a run without an attack."""
        options = self.config.attack_options if stage == self.config.method else {}
        return adversary_of(options, self.method(), self.task) if options else None

    def first_sending(self, client: int = 0) -> tuple[PromptState, PromptState]:
        """Return the broadcast to ``client`` in round 1, and an example of its update as it travels.

        Raises:
            ConfigError: A processor of the run cannot act on the update of the method.
        """
        method = self.config.method
        broadcast, example = first_update(self.method(), self.aggregator(), client)
        return broadcast, self.processors(method).check(method, example, broadcast)

    def samples(self, method: Method) -> dict[int, int]:
        """Return client -> the most examples that its update can stand for.

        These are the examples that it holds, or that its site announced in its first message. Zero-shot counts
        validation examples.
        """
        counts = {summary.client: max(summary.train, summary.val) for summary in self.task.summaries()}
        return dict.fromkeys(counts, sum(counts.values())) if method.is_centralized else counts

    def train_sizes(self) -> dict[int, int]:
        """Return client -> how many labelled training examples it has."""
        return {data.client: data.train.total for data in self.task.clients}

    def worker(self, method: Method, stage: str, private_training: DPSGD | None = None) -> ClientWorker:
        """Build what does the work of clients in ``stage``, whose method is ``method``.

        Where examples are protected, it needs ``private_training`` to train.
        """
        task = centralize(self.task) if method.is_centralized else self.task
        is_method = stage == self.config.method
        dropout = self.config.dropout if is_method else 0.0
        needs_noise = is_method and self.privacy.dp == "example"
        others = private_training, self.adversary(stage), needs_noise
        return ClientWorker(method, task, dropout, self.processors(stage), *others)

    def federation(
        self,
        stage: str | None = None,
        engine: Engine | None = None,
        release: Release | None = None,
        private_training: DPSGD | None = None,
    ) -> Federation:
        """Build the federation of the run or of a baseline.

        A baseline has the plain mean in place of the run's aggregator, and no simulated drop-outs or time limit: it
        shows what a reliable federation reaches.

        Args:
            stage: The baseline; None builds the run's own federation.
            engine: Where the clients work, by default in this process.
            release: What a private run merges by; without it, the federation of such a run cannot train.
            private_training: What trains where single examples are protected, and is needed likewise.

        Raises:
            ConfigError: ``engine`` would train on other data, or with another model, than this experiment has.
        """
        if engine is not None and engine.builds_from_config and self.given:
            raise ConfigError(
                f"engine '{self.config.engine}' builds everything from the run's options, in processes of its own, "
                f"without the {' and '.join(self.given)} of the caller: use engine 'local'"
            )
        config, stage = self.config, stage or self.config.method
        is_method = stage == config.method
        method = self.method(stage)
        return Federation(
            method,
            self.aggregator() if is_method else Mean(Mean.Config()),
            engine or self._stage_engine(self.worker(method, stage, private_training)),
            [summary.client for summary in self.task.summaries()],
            config.participation,
            config.quorum,
            config.round_seconds if is_method else None,
            stage,
            self.samples(method),
            config.max_weight_share,
            self.processors(stage),
            release,
            is_method and self.privacy.needs_sums,
            not is_method or self.privacy.dp != "example",
        )

    def _stage_engine(self, worker: Worker) -> Engine:
        """Build the run's engine in this process, or the local one where the run's engine is for all stages at once."""
        engine = ENGINES[self.config.engine].for_stage(worker, self.config)
        return engine or LocalEngine.for_stage(worker, self.config)


def _agree(one: RunConfig, other: RunConfig, options: Sequence[str]) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in options)


def _has_option(kind: type[MethodConfig], name: str, value: Any) -> bool:
    """Return whether a method of ``kind`` has the option ``name`` and takes ``value`` for it."""
    try:
        kind.model_validate({name: value})
    except ValidationError:
        return False
    return True
