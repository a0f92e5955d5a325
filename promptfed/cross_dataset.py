"""A run's prompts on its own data and on data sets that no client of it ever saw (FedTPG's cross-dataset protocol)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from promptfed.build_method import build_method
from promptfed.config import RunConfig
from promptfed.errors import DataError
from promptfed.evaluation import evaluate
from promptfed.experiment import Experiment
from promptfed.export.finished import FinishedRun
from promptfed.measures.figures import described
from promptfed.method import Method
from promptfed.progress import Progress
from promptfed.resolve import resolve
from promptfed.result_notes import below_zero_shot
from promptfed.runs.partition_check import check_partition
from promptfed.runs.partition_file import partition_record, read_partition
from promptfed.tasks.partitioning import AUTO, BY_CLIENT
from promptfed.tasks.sources.objects import ObjectData


def evaluate_on(
    finished: FinishedRun,
    data: Sequence[str],
    changed: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    measures: str | Sequence[str] | None = None,
    other: ObjectData | None = None,
) -> dict[str, dict[str, Any]]:
    """Score a run on other data sets.

    Wherever the clients are not those of the run, all have a newcomer's prompt.

    Args:
        finished: The run.
        data: The other data sets; without any, ``changed`` deals the run's own images out anew.
        changed: Options (data_root, partition) for the others.
        progress: Receives the progress.
        measures: Those beside accuracy, by default the run's.
        other: Data that are a Python object.

    Returns:
        Data set -> test figures of ``zero_shot`` and ``method``, and the domains that no client held. The run's own
            data
        come first.
    """
    config, results, progress = finished.run.config, {}, progress or Progress()
    if measures is not None:
        config = config.model_copy(update={"measures": RunConfig(measures=measures).measures})
    elsewhere = {"clients": None, **(changed or {})}  # other data need not fit the run's number of clients
    if config.partition == BY_CLIENT:
        elsewhere = {"partition": AUTO, **elsewhere}
    objects = dict.fromkeys([config.data, *data], finished.objects)
    rows: dict[str, dict[str, Any]] = {config.data: elsewhere if changed and not data and other is None else {}}
    rows |= {name: {"data": name, **elsewhere} for name in data if name != config.data}
    if other is not None:
        name = f"{other.name} (other)" if other.name in rows else other.name
        rows[name] = {**elsewhere, "data": other.name, **({"partition": BY_CLIENT} if other.source.by_client else {})}
        objects[name] = dataclasses.replace(finished.objects, data=other)
    for name, update in rows.items():
        try:
            changed_config = resolve(config.model_copy(update=update))
            if other is None and name != config.data and changed_config.data == config.data:
                continue  # the run's own data, by another path
            experiment = Experiment.build(changed_config, model_for=finished.model_for, objects=objects[name])
            if not update:
                recorded, run = read_partition(finished.run), finished.run.path
                check_partition(recorded, partition_record(experiment.task), run)
        except DataError as error:
            if name != config.data or len(rows) == 1:
                raise
            progress.note(f"the run's own data are left out: {error}")  # they may be on another machine
            continue
        notes = () if not update else tuple(f"{name}: {note}" for note in experiment.task.notes)
        for note in (*notes, *_notes(finished, experiment, name)):
            progress.note(note)
        experiment.fill_features(progress.features)
        results[name] = _figures(finished, experiment, is_own=not update)
    return results


def _notes(finished: FinishedRun, experiment: Experiment, name: str) -> list[str]:
    """Return notes for the user on figures on other data than the run's own, where the model is a black box."""
    model = experiment.setup.model
    if model.form is None or model.kind in ("forecaster", "policy"):
        return []
    lines = []
    if model.form != finished.method.setup.model.form:
        lines.append(f"{name}: the run's shared prompt is put in these data's own template, with their label words")
    strange = [c for c in experiment.task.base_classes if c not in finished.method.setup.classes]
    if strange:
        lines.append(
            f"{name}: its classes ({', '.join(strange[:3])}{', ...' if len(strange) > 3 else ''}) are none that the "
            "prompt was trained for; they are asked for by name, and a prompt that says what to sort by may mislead"
        )
    return lines


def _figures(finished: FinishedRun, experiment: Experiment, *, is_own: bool) -> dict[str, Any]:
    method, federation = _method(finished, experiment), experiment.federation("zero_shot")
    choice, _ = federation.run_round(federation.start())
    newcomer = finished.prompt(None)
    prompts = {c.client: finished.prompt(c.client) if is_own else newcomer for c in experiment.task.clients}
    task, measures = experiment.task, experiment.measures
    zero_shot = evaluate(federation.method, federation.prompts(choice), task, measures)
    level = zero_shot.figures.recorded()
    rows = {"zero_shot": level, "method": evaluate(method, prompts, task, measures).figures.recorded()}
    for figures in rows.values():
        figures["below_zero_shot"] = below_zero_shot(figures, level)
    return {
        **rows,
        "held_out": experiment.held_out,
        **({"measures": described(measures)} if measures else {}),
    }


def _method(finished: FinishedRun, experiment: Experiment) -> Method:
    """Return the run's method with the model that formats examples by the data's template."""
    method, model = finished.method, experiment.setup.model
    if model is method.setup.model:
        return method
    config = finished.run.config
    return build_method(config.method, config.method_options, dataclasses.replace(method.setup, model=model))
