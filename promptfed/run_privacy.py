"""What a finished run promises those who hold the data: the content of ``privacy.json``."""

from __future__ import annotations

from promptfed.experiment import Experiment
from promptfed.federation import Federation
from promptfed.privacy.account import read_releases
from promptfed.privacy.statement import FILE, Circumstances, sentences, statement
from promptfed.processors.client_state import prompt_of
from promptfed.runs.directory import RunDirectory
from promptfed.types import FederationState


def write_statement(
    experiment: Experiment, run: RunDirectory, trained: tuple[Federation, FederationState]
) -> list[str]:
    """Write ``privacy.json`` of a run, and return its content in a few sentences.

    Args:
        experiment: The run's data, model and options.
        run: Its folder, where its releases are accounted for.
        trained: The method's federation after the last round.

    Raises:
        DiskError: The disk refuses.
    """
    federation, state = trained
    stage, model = experiment.config.method, experiment.setup.model
    replies = [event for event in run.events.read() if event["event"] == "client" and event["stage"] == stage]
    some_client = federation.clients[0]
    facts = Circumstances(
        clients=len(federation.clients),
        rounds=federation.method.rounds,
        lost=sum(bool(event["failure"]) for event in replies),
        engine=experiment.config.engine,
        personal=bool(len(prompt_of(federation.resumed(state).personal[some_client]))),
        validated=federation.method.access == "black box",
        asks_api=model.is_paid,
    )
    promise = statement(experiment.privacy, read_releases(run.path), facts)
    run.write_json(FILE, promise)
    return sentences(promise)
