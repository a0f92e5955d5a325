"""A run that was not trained here: somebody else's shared prompt in a run directory, ready to use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from promptfed.config import RunConfig
from promptfed.experiment import Experiment
from promptfed.method import Method
from promptfed.prompt_state import PromptState
from promptfed.runs.checkpoint import save_checkpoint
from promptfed.runs.directory import RunDirectory
from promptfed.runs.partition_file import partition_record, write_partition
from promptfed.runs.passport import identity_of, write_passport
from promptfed.types import FederationState


def import_run(
    config: RunConfig, shared: PromptState, source: Path, check: Callable[[Method], None], folder: Path | None
) -> RunDirectory:
    """Return a run of ``config`` (resolved) as after its last round, with the prompt ``shared`` from ``source``.

    Clients start with the personal prompts that the method gives them. Nothing is trained or scored: `promptfed eval`
    scores it, `promptfed train --resume` adds the baselines and the final figures.

    Args:
        config: The options.
        shared: The prompt.
        source: Its file.
        check: Receives the run's method and raises if the prompt does not fit it; then no directory is made.
        folder: The run's folder; None: a fresh one.
    """
    experiment = Experiment.build(config)
    federation = experiment.federation()
    method = federation.method
    check(method)
    start = federation.start()
    server = method.server_side(experiment.aggregator()).init(shared)
    run = RunDirectory.create(folder, config, label=f"{config.task}-{config.method}-imported")
    with run.lock():
        run.events.write("run_start", method=config.method, seed=config.seed, imported=str(source.resolve()))
        partition = write_partition(run, partition_record(experiment.task, basis=method.basis))
        identity = identity_of(run, {})
        write_passport(run, partition, identity)
        state = FederationState(config.rounds, shared, server, start.personal)
        size = run.events.size()
        save_checkpoint(
            run.stage_folder(config.method, is_baseline=False),
            state,
            events_bytes=size,
            events_sha256=run.events.sha256(size),
            run=identity,
        )
    return run
