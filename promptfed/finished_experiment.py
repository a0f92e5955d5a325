"""The experiment of a finished run, on the data that the run had."""

from __future__ import annotations

from typing import Any

from promptfed.experiment import Experiment
from promptfed.export.finished import FinishedRun
from promptfed.runs.partition_check import check_partition
from promptfed.runs.partition_file import partition_record, read_partition


def finished_experiment(finished: FinishedRun, **changes: Any) -> Experiment:
    """Build the experiment of a run with ``changes`` of its options, and check that its data are what they were.

    Raises:
        DataError: The data are not here, or have changed.
    """
    config = finished.run.config.model_copy(update=changes)
    experiment = Experiment.build(config, model_for=finished.model_for, objects=finished.objects)
    check_partition(read_partition(finished.run), partition_record(experiment.task), finished.run.path)
    return experiment
