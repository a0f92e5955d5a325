"""Audits of a finished run: what its prompt, or an update that its clients would send, says of their data."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from promptfed.attacks.inversion import feature_inversion, label_inference
from promptfed.attacks.membership import Training, prompt_membership, update_membership
from promptfed.errors import ConfigError, unknown_name
from promptfed.experiment import Experiment
from promptfed.export.finished import FinishedRun
from promptfed.finished_experiment import finished_experiment
from promptfed.first_update import first_update
from promptfed.local_training import GradientTraining
from promptfed.privacy.dpsgd import DPSGD
from promptfed.privacy.secret_key import KEY_BYTES, SecretKey
from promptfed.privacy.statement import FILE
from promptfed.progress import Progress
from promptfed.prompt_state import PromptState
from promptfed.types import Broadcast, ClientData, ClientPrompt, Update

UNSEEN = "this run's server sees the sum of the updates, and none of them alone"
"""The note on a run with secure sums."""


@dataclass(frozen=True)
class Audit:
    """An audit: what it does, what it knows, and its name in a sentence."""

    about: str
    knows: str
    work: Callable[[FinishedRun, Experiment], dict[str, Any]]


def audit(finished: FinishedRun, name: str, progress: Progress | None = None) -> dict[str, Any]:
    """Audit a run on its own data.

    Updates are those that clients would send next, from the prompt before round 1 (``first round``) and from the one
    that the run ended with (``after the run``); a finished run keeps none. Noise that clients add is added anew. What
    a server adds to a sum is not in them: it sees each update without.

    Raises:
        ConfigError: The audit is unknown, or the method gives it nothing to look at.
        DataError: The run's data are not here.
        RunError: They have changed.
    """
    if name not in AUDITS:
        raise unknown_name("audit", name, AUDITS)
    experiment = finished_experiment(finished, attack_options={})
    experiment.fill_features((progress or Progress()).features)
    about = AUDITS[name]
    about_run = {"knows": about.knows, "clients": len(finished.names), "notes": notes_on(finished, name)}
    return {"audit": name, **about_run, **about.work(finished, experiment)}


def notes_on(finished: FinishedRun, name: str) -> list[str]:
    """Return in what the audit ``name`` differs from what the server of a private run sees."""
    found, notes = finished.run.read_json(FILE) or {}, []
    if name == "inversion" and found.get("differential_privacy") == "example":
        notes.append("this run's clients clip each gradient and add noise; this is the gradient without")
    if found.get("differential_privacy") == "client":
        notes.append("this run's noise is added to the sum: prompts have it, and updates have not")
    if found.get("secure_aggregation", "none") != "none":
        notes.append(UNSEEN)
    return notes


def verdict(found: Mapping[str, Any]) -> str:
    """Return in a sentence what the figures of an audit, as ``audit`` returns them, come to."""
    if found["audit"] == "membership":
        scores = found["scores"].items()
        telling = [name for name, s in scores if s["trained"]["auc_interval"][0] > max(0.5, s["start"]["auc"])]
        said, unsaid = "members are told from others, on average", "no score tells members from others beyond its error"
    elif found["audit"] == "labels":
        telling = [name for name, u in found["updates"].items() if u["spearman_interval"][0] > 0]
        said, unsaid = "the order of a client's classes shows", "the order of a client's classes does not show"
    else:
        updates = found["updates"].items()
        telling = [name for name, u in updates if u["cosine_interval"][0] > (u["cosine_by_chance"] or 0)]
        said, unsaid = "features of a single example are rebuilt", "features are rebuilt no better than by chance"
    without = " (without the sum, which hides single updates)" if UNSEEN in found.get("notes", ()) else ""
    return f"{said}: {', '.join(telling)}{without}" if telling else f"{unsaid}; stronger attacks may find more"


def _membership(finished: FinishedRun, experiment: Experiment) -> dict[str, Any]:
    method, task = finished.method, experiment.task
    prompts = {data.client: finished.prompt(data.client) for data in task.clients}
    start = ClientPrompt(first_update(method, experiment.aggregator(), 0)[0])
    result = {"prompt": prompt_membership(method, prompts, start, task)}
    if isinstance(method, GradientTraining):
        for moment, (sent, personal) in _moments(finished, experiment).items():
            train = training_of(finished, experiment)
            result[f"update, {moment}"] = update_membership(method, sent, personal, task, train)
    return {"scores": result}


def _labels(finished: FinishedRun, experiment: Experiment) -> dict[str, Any]:
    train = training_of(finished, experiment)
    return {
        "updates": {
            moment: label_inference(finished.method, sent, personal, experiment.task, train)
            for moment, (sent, personal) in _moments(finished, experiment).items()
        }
    }


def _inversion(finished: FinishedRun, experiment: Experiment) -> dict[str, Any]:
    return {
        "updates": {
            moment: feature_inversion(finished.method, sent, experiment.task)
            for moment, (sent, _) in _moments(finished, experiment).items()
        }
    }


Moment = tuple[dict[int, PromptState], dict[int, PromptState]]


def training_of(finished: FinishedRun, experiment: Experiment) -> Training | None:
    """Return how a client of the run trains, if it adds noise for each example; None: as the method does.

    The noise comes from a key made for the audit, because the run's own must not be drawn again.
    """
    method, found = finished.method, finished.run.read_json(FILE) or {}
    if found.get("differential_privacy") != "example" or not isinstance(method, GradientTraining):
        return None
    key = SecretKey(secrets.token_bytes(KEY_BYTES))
    noise, space = float(found["noise_multiplier"]), experiment.privacy.clip_space
    private = DPSGD(key, float(found["clip"]), noise, space, "audit")

    def train(sent: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        return private.train_many(method, [(sent, data, personal)])[0]

    return train


def _moments(finished: FinishedRun, experiment: Experiment) -> dict[str, Moment]:
    """Return moment -> what each client is sent, and what it keeps."""
    method, clients = finished.method, [data.client for data in experiment.task.clients]
    if method.is_centralized:
        raise ConfigError(f"{method.name} is no federation: nobody sends an update")
    aggregator = experiment.aggregator()
    first = {client: first_update(method, aggregator, client)[0] for client in clients}
    prompts = {client: finished.prompt(client) for client in clients}
    return {
        "first round": (first, {client: method.init_personal(client) for client in clients}),
        "after the run": (
            {client: prompt.shared for client, prompt in prompts.items()},
            {client: prompt.personal for client, prompt in prompts.items()},
        ),
    }


AUDITS: dict[str, Audit] = {
    "membership": Audit(
        "Was this example trained on? From the exported prompt (loss) and from one update (its gradient).",
        "the prompt, or one update",
        _membership,
    ),
    "labels": Audit("How many examples of which class has a client? From one update.", "one update", _labels),
    "inversion": Audit(
        "What are the image features of a client's only example? From the gradient that it sends.",
        "one gradient",
        _inversion,
    ),
}
"""Name -> audit, in the order in which they are listed."""
