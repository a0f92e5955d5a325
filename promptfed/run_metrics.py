"""What metrics.json of a finished run holds: figures, notes, cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from promptfed.attacks.base import NAME
from promptfed.communication import numbers_in
from promptfed.evaluation import Evaluation
from promptfed.experiment import Experiment
from promptfed.federation import Federation
from promptfed.kept_text import kept_words
from promptfed.language_models.model import LanguageModel
from promptfed.measure_check import NO_CLASSES
from promptfed.measures.figures import described
from promptfed.methods.zero_shot import ZeroShot
from promptfed.report.tables import BASELINES
from promptfed.result_notes import attack_note, below_zero_shot, figure_notes, near_chance_note, simpler_note
from promptfed.runs.client_events import processor_figures
from promptfed.runs.events import Event
from promptfed.runs.ledger import cost_of
from promptfed.types import FederatedTask, FederationState


def run_metrics(
    experiment: Experiment,
    events: Iterable[Event],
    evaluations: Mapping[str, Evaluation],
    trained: Mapping[str, tuple[Federation, FederationState]],
) -> dict[str, Any]:
    """Return what a run ends with.

    Args:
        experiment: The run's data, model and options.
        events: All events of the run, for what it cost.
        evaluations: Stage -> its test figures.
        trained: Stage -> its federation after the last round.
    """
    figures = {stage: pair.figures.recorded() for stage, pair in evaluations.items()}
    method = experiment.config.method
    metrics: dict[str, Any] = {name: figures[name] for name in BASELINES if name in figures}
    metrics["method"] = figures[method]
    for name in ("zero_shot", "local_only", "method"):
        if name in metrics:
            metrics[name]["below_zero_shot"] = below_zero_shot(metrics[name], metrics.get("zero_shot"))
    metrics["new_classes"] = list(experiment.task.new_classes)
    near = (near_chance(experiment.task, *pair) for pair in trained.values())
    metrics["examples"] = experiment.examples
    notes = [note for note in near if note]
    if experiment.examples in ("windows", "episodes"):
        trivial = [name for name in BASELINES if name not in ("local_only", "expert_allocation", "trajectory_prompt")]
        measure = experiment.config.selection
        notes += filter(None, [simpler_note(metrics, measure, trivial)])
    notes += figure_notes(experiment.task, evaluations[method].figures, experiment.examples)
    events = list(events)
    measurements = processor_figures(events, method)
    attack = attack_figures(experiment, trained[method])
    metrics["notes"] = [
        *([attack_note(attack)] if attack else []),
        *experiment.run_notes,
        *notes,
        *experiment.processors(method).summaries(measurements),
    ]
    metrics["data_notes"] = list(experiment.task.notes)
    cost = cost_of(events).shown()
    if (usage := experiment.setup.model.spent()) is not None:
        # The account also knows what was asked for in vain: work that was lost with a killed process.
        cost |= {name: value for name, value in dataclasses.asdict(usage).items() if value}
    if silent := experiment.setup.model.unanswered():
        metrics["not_answered"] = silent
    metrics["cost"] = cost
    for federation, state in trained.values():
        if isinstance(federation.method, ZeroShot):
            metrics["template"] = federation.method.template(state.shared)
    word_counts = {"method" if stage == method else stage: kept_words(state) for stage, (_, state) in trained.items()}
    if any(word_counts.values()):
        metrics["kept_zero_shot"] = {stage: words for stage, words in word_counts.items() if words}
    if size := update_size(experiment, events, trained[method]):
        metrics["update"] = size
    metrics["held_out"] = experiment.held_out
    if measures := experiment.measures:
        metrics["measures"] = described(measures)
    if attack:
        metrics["attack"] = attack
    metrics["prompt_sha256"] = trained[method][1].shared.sha256()
    return metrics


def attack_figures(experiment: Experiment, trained: tuple[Federation, FederationState]) -> dict[str, Any]:
    """Return what metrics.json says of a run's attack; empty for a run without one."""
    adversary, (federation, state) = experiment.adversary(experiment.config.method), trained
    if adversary is None:
        return {}
    start = federation.prompt(federation.start(), None)
    return {"name": experiment.config.attack_options[NAME], **adversary.measured(federation.prompt(state, None), start)}


def update_size(
    experiment: Experiment, events: Iterable[Mapping[str, Any]], trained: tuple[Federation, FederationState]
) -> dict[str, int]:
    """Return how large an update is beside a language model's weights; empty if nothing is sent, or for other models.

    ``numbers`` and ``bytes``: of one client in a round, bytes as serialised, the mean over the run; ``weights``: all
    numbers of the model, which fine-tuning would send.
    """
    model, (federation, state) = experiment.setup.model, trained
    if not isinstance(model, LanguageModel):
        return {}
    stage = experiment.config.method
    replies = [event for event in events if event["event"] in ("client", "sum") and event["stage"] == stage]
    sizes = [event["bytes_up"] for event in replies if event["event"] == "client" and not event["failure"]]
    sums = sum(event["bytes_up"] for event in replies if event["event"] == "sum")
    shapes = federation.method.uploads(0, state.shared).values()
    if any(None in shape for shape in shapes):  # texts are no numbers beside the model's
        return {}
    numbers = numbers_in(shapes)
    if not numbers or not sizes or not (total := sum(sizes) + sums):
        return {}
    return {"numbers": numbers, "bytes": round(total / len(sizes)), "weights": model.parameters}


def near_chance(task: FederatedTask, federation: Federation, state: FederationState) -> str:
    """Return a note if ``federation`` is zero-shot and at chance level, which free answers and numbers do not have.

    One whose prompt was chosen by another measure says nothing of its accuracy.
    """
    if not isinstance(federation.method, ZeroShot) or task.base_classes in NO_CLASSES:
        return ""
    if "accuracy" not in state.shared:
        return ""
    n_examples = sum(summary.val or summary.train for summary in task.summaries())
    return near_chance_note(state.shared["accuracy"].max().item(), n_examples, len(task.base_classes))
