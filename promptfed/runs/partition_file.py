"""partition.json: each client's number of examples by class, and the run's model.

A large table of clients lies beside it, in clients.safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from promptfed.examples.base import ANSWER_CLASSES, QuestionItem, TextItem
from promptfed.examples.episodes import EpisodeForm, EpisodeItem
from promptfed.examples.series import SeriesForm, WindowItem
from promptfed.printable import printable
from promptfed.runs.client_rows import FILE as ROWS_FILE
from promptfed.runs.client_rows import USES, ClientRows
from promptfed.runs.directory import RunDirectory
from promptfed.runs.partition_check import ContentDigests
from promptfed.types import ClientData, FederatedTask

if TYPE_CHECKING:
    from promptfed.config import RunConfig
    from promptfed.frozen_model import FrozenModel
    from promptfed.prompt_template import PromptTemplate

ROW_VALUES = 8
"""JSON values of a client's row besides its counts."""
MOST_VALUES = 200_000
"""JSON values of all rows that partition.json holds itself; more are not read by other tools in a sensible time."""


def partition_table(task: FederatedTask) -> dict[str, Any]:
    """Return the clients' numbers of examples by class.

    ``{"examples": "images", "classes": [name], "new_classes": [name], "partition": "domain", "clients": [{"client",
    "name", "domain", "one_class", "train", "val", "test"}]}``.
    """
    return {**_heading(task), "clients": [row(data, len(task.base_classes)) for data in task.clients]}


def _heading(task: FederatedTask) -> dict[str, Any]:
    return {
        "examples": examples(task),
        "classes": list(task.base_classes),
        "new_classes": list(task.new_classes),
        "partition": task.partition,
    }


def row(data: ClientData, classes: int) -> dict[str, Any]:
    """Return the row of one client, with its examples of each of so many ``classes``."""
    return {
        "client": data.client,
        "name": data.name,
        "domain": data.domain,
        "one_class": len(data.classes) == 1,
        "train": data.train.counts(classes),
        "val": data.val.counts(classes),
        "test": data.test.counts(classes),
        **({"unlabelled": data.unlabelled.total} if data.unlabelled.total else {}),
    }


def shown_data(config: RunConfig) -> str:
    """Return the source of a run's examples: its ``--data``, or the CSV file of ``--partition`` in its place."""
    return printable(config.partition if config.partition.startswith("csv:") else config.data)


def examples(task: FederatedTask) -> str:
    """Return the kind of the examples: "images", "texts", "questions" (free answers), "windows" or "episodes"."""
    first = task.base_test.items[0] if len(task.base_test) else None
    if first is None:  # a server over sites has none
        return kind_of_examples(task.form, task.base_classes)
    if isinstance(first, WindowItem):
        return "windows"
    if isinstance(first, EpisodeItem):
        return "episodes"
    if isinstance(first, QuestionItem):
        return "questions"
    return "texts" if isinstance(first, TextItem) else "images"


def kind_of_examples(form: PromptTemplate | None, classes: Sequence[str]) -> str:
    """As ``examples``, of examples that are put to a model as ``form`` says and are of ``classes``."""
    if form is None:
        return "images"
    if isinstance(form, SeriesForm):
        return "windows"
    if isinstance(form, EpisodeForm):
        return "episodes"
    return "questions" if tuple(classes) == ANSWER_CLASSES else "texts"


def partition_record(task: FederatedTask, model: FrozenModel | None = None, basis: str = "") -> dict[str, Any]:
    """Return the record that a run keeps of its task and model.

    It holds the table, ``new_classes``, ``templates`` and ``content``, by which ``partition_check`` recognises the
    data. With a black box it also holds ``form``, and the fingerprint of the ``oracle`` for that form; otherwise name
    and fingerprint of the ``backbone``. A method with directions has their SHA-256, the ``basis``.
    """
    count, digests = len(task.base_classes), ContentDigests()
    rows = ((row(data, count), digests.of_client(data)) for data in task.clients)
    content = {"tests": digests.of_tests(task)}
    table: dict[str, Any] = _heading(task)
    if len(task.clients) * (ROW_VALUES + len(USES) * count) > MOST_VALUES:
        table |= {"clients": ClientRows.of(count, rows), "templates": list(task.templates), "content": content}
    else:
        pairs = list(rows)
        table |= {
            "clients": [client_row for client_row, _ in pairs],
            "templates": list(task.templates),
            "content": {"clients": [digest for _, digest in pairs], **content},
        }
    if task.form is not None:
        table["form"] = task.form.model_dump(mode="json")
    return {**table, **(model.describe() if model else {}), **({"basis": basis} if basis else {})}


def write_partition(run: RunDirectory, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write the ``record`` of a run's data and return the content of partition.json.

    Of many clients the rows go into ``clients.safetensors``, and partition.json holds their number and checksum.

    Raises:
        DiskError: The disk refuses.
    """
    stored, rows = dict(record), record.get("clients")
    if isinstance(rows, ClientRows):
        stored["clients"], stored["client_rows"] = [], rows.save(run.path)
    else:
        run.remove(ROWS_FILE)
    run.write_json("partition.json", stored)
    return stored


def read_partition(run: RunDirectory) -> dict[str, Any] | None:
    """Return the record that ``write_partition`` wrote; None if there is none.

    Raises:
        RunError: A file differs from what was written; the message names it.
    """
    record = run.read_json("partition.json")
    if record is None or not isinstance(record.get("client_rows"), dict):
        return record
    summary = record.pop("client_rows")
    return {**record, "clients": ClientRows.open(run.path, summary, len(record.get("classes") or ()))}
