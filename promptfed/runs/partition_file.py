"""partition.json: each client's number of examples by class, and the run's model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from promptfed.examples.base import QuestionItem, TextItem
from promptfed.printable import printable
from promptfed.runs.partition_check import content_record
from promptfed.types import FederatedTask

if TYPE_CHECKING:
    from promptfed.config import RunConfig
    from promptfed.frozen_model import FrozenModel


def partition_table(task: FederatedTask) -> dict[str, Any]:
    """Return the clients' numbers of examples by class.

    ``{"examples": "images", "classes": [name], "new_classes": [name], "partition": "domain", "clients": [{"client",
    "name", "domain", "one_class", "train", "val", "test"}]}``.
    """
    count = len(task.base_classes)
    return {
        "examples": examples(task),
        "classes": list(task.base_classes),
        "new_classes": list(task.new_classes),
        "partition": task.partition,
        "clients": [
            {
                "client": data.client,
                "name": data.name,
                "domain": data.domain,
                "one_class": len(data.classes) == 1,
                "train": data.train.counts(count),
                "val": data.val.counts(count),
                "test": data.test.counts(count),
            }
            for data in task.clients
        ],
    }


def shown_data(config: RunConfig) -> str:
    """Return the source of a run's examples: its ``--data``, or the CSV file of ``--partition`` in its place."""
    return printable(config.partition if config.partition.startswith("csv:") else config.data)


def examples(task: FederatedTask) -> str:
    """Return the kind of the examples: "images", "texts" or "questions" (with free answers)."""
    first = task.base_test.items[0] if len(task.base_test) else None
    if isinstance(first, QuestionItem):
        return "questions"
    return "texts" if isinstance(first, TextItem) else "images"


def partition_record(task: FederatedTask, model: FrozenModel | None = None) -> dict[str, Any]:
    """Return the record that a run keeps of its task and model.

    It holds the table, ``new_classes``, ``templates`` and ``content``, by which ``partition_check`` recognises the
    data. With a black box it also holds ``form``, and the fingerprint of the ``oracle`` for that form; otherwise name
    and fingerprint of the ``backbone``.
    """
    agreed: dict[str, Any] = {
        "templates": list(task.templates),
        "content": content_record(task),
    }
    if task.form is not None:
        agreed["form"] = task.form.model_dump(mode="json")
    return {**partition_table(task), **agreed, **(model.describe() if model else {})}
