"""From a run's options to its engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from promptfed.config import RunConfig
from promptfed.engines.base import Engine, Worker
from promptfed.engines.by_value import by_value
from promptfed.engines.registry import ENGINES, check_engine
from promptfed.named_model import named_model
from promptfed.objects import NO_OBJECTS, Objects
from promptfed.plugins import load_plugins, loaded_plugins
from promptfed.privacy.dpsgd import ExampleTerms
from promptfed.threads import torch_threads

if TYPE_CHECKING:
    from promptfed.experiment import Experiment


@dataclass(frozen=True)
class ExperimentBuilder:
    """Builds, in whatever process, what the work of a run needs."""

    config: RunConfig
    objects: Objects = NO_OBJECTS
    plugins: tuple[str, ...] = field(default_factory=lambda: tuple(loaded_plugins()))
    """Those of the process that begins the run: its actors are the same user's."""

    def __call__(self) -> ExperimentWorkplace:
        from promptfed.experiment import Experiment

        load_plugins(self.plugins)
        self.objects.register_classes()
        return ExperimentWorkplace(Experiment.build(self.config, objects=self.objects))


class ExperimentWorkplace:
    """An experiment as a place of work for clients of all stages."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    def worker(self, stage: str, examples: ExampleTerms | None = None) -> Worker:
        training = None if examples is None else examples.training()
        return self.experiment.worker(self.experiment.method(stage), stage, training)

    def verify_frozen(self) -> None:
        self.experiment.setup.verify_frozen()


@contextmanager
def engine_of(config: RunConfig, objects: Objects = NO_OBJECTS) -> Iterator[Engine | None]:
    """Yield the engine for all stages of a run of ``config``; None: each stage has a local one of its own.

    It is closed at the end.

    Raises:
        ConfigError: It is not available.
    """
    check_engine(config)
    with torch_threads(named_model(config).threads):
        kind, builder = ENGINES[config.engine], ExperimentBuilder(config, objects)
        leaves = kind.builds_from_config and objects.parts
        engine = kind.for_run(by_value(builder, objects.parts, config.engine) if leaves else builder, config)
        try:
            yield engine
        finally:
            if engine is not None:
                engine.close()
