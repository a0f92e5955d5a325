"""What a run promises those who hold the data: how its method trains so, and the content of ``privacy.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from promptfed.attacks.base import NAME
from promptfed.engines.base import Engine
from promptfed.experiment import Experiment
from promptfed.federation import Federation
from promptfed.privacy.account import read_releases
from promptfed.privacy.example_account import batches_of
from promptfed.privacy.example_check import check_example_dp
from promptfed.privacy.example_statement import example_statement
from promptfed.privacy.run_examples import RunExamples
from promptfed.privacy.run_release import RunRelease
from promptfed.privacy.statement import FILE, SITES, Circumstances, beside, sentences, statement
from promptfed.processors.client_state import prompt_of
from promptfed.runs.directory import RunDirectory
from promptfed.types import FederationState
from promptfed.warm_start import ROLE


def private_federation(
    experiment: Experiment, folder: Path, engine: Engine | None, round: int
) -> tuple[Federation, RunRelease | RunExamples | None]:
    """Return the federation of a run's method, and the account of what it releases; None if it promises nothing.

    Args:
        experiment: The run's data, model and options.
        folder: The run's, where its key and its account are.
        engine: Where the clients work, by default in this process.
        round: The last finished round.

    Raises:
        RunError: The run has begun, and its key or its account is gone, or the key is another one.
        ConfigError: What the run may spend does not allow one round.
    """
    terms, config = experiment.privacy, experiment.config
    if terms.dp == "example":
        plain = experiment.federation()
        steps, sizes = check_example_dp(plain.method).config, experiment.train_sizes()
        batches = batches_of(steps, sizes, len(experiment.setup.classes))
        planned = plain.participants, config.rounds, round
        has_key = engine is None or engine.simulates
        examples = RunExamples.begin(folder, terms, batches, config.method, *planned, has_key)
        if engine is not None and examples.training is not None:
            engine.protect(examples.training.terms(folder))
        return experiment.federation(engine=engine, private_training=examples.training), examples
    if not terms.needs_sums:
        return experiment.federation(engine=engine), None
    clients = [summary.client for summary in experiment.task.summaries()]
    sums = None if engine is None else engine.sums
    release = RunRelease.begin(folder, terms, clients, config.participation, config.rounds, round, sums)
    return experiment.federation(engine=engine, release=release.mean), release


def write_statement(
    experiment: Experiment,
    run: RunDirectory,
    trained: tuple[Federation, FederationState],
    account: RunRelease | RunExamples | None = None,
) -> list[str]:
    """Write ``privacy.json`` of a run, and return its content in a few sentences.

    Args:
        experiment: The run's data, model and options.
        run: Its folder, where its releases are accounted for.
        trained: The method's federation after the last round.
        account: That of a private run.

    Raises:
        DiskError: The disk refuses.
    """
    federation, state = trained
    config, model = experiment.config, experiment.setup.model
    stage, start = config.method, config.objects.get(ROLE)
    replies = [event for event in run.events.read() if event["event"] == "client" and event["stage"] == stage]
    some_client = federation.clients[0]
    facts = Circumstances(
        clients=len(federation.clients),
        rounds=federation.method.rounds,
        lost=sum(bool(event["failure"]) for event in replies),
        engine=config.engine if federation.engine.simulates else SITES,
        personal=bool(len(prompt_of(federation.resumed(state).personal[some_client]))),
        validated=bool(config.method_options.get("keep_zero_shot", False)),
        asks_api=model.is_paid,
        start=start.name if start else "",
        attack=str(config.attack_options.get(NAME, "")),
        baselines=any(name not in (stage, "zero_shot") for name in experiment.baselines),
        is_timed=config.round_seconds is not None,
    )
    if not isinstance(account, RunExamples):
        promise = statement(experiment.privacy, read_releases(run.path), facts)
    else:
        sites, rounds = account.sites, state.round
        at_sites = account.training is None
        spent = account.epsilons() if not at_sites else _with_reported(account.epsilons(), replies)
        others = facts.personal, beside(facts), None if at_sites else config.engine
        promise = example_statement(experiment.privacy, sites.multiplier, spent, sites.batches, rounds, *others)
    run.write_json(FILE, promise)
    return sentences(promise)


def _with_reported(epsilons: Mapping[int, float], replies: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Return what each site has spent: the larger of the server's own account and the site's last word."""
    found = dict(epsilons)
    for event in replies:
        client, value = event["client"], event.get("epsilon")
        if client in found and isinstance(value, int | float):
            found[client] = max(found[client], float(value))
    return found
