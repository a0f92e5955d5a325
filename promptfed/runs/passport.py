"""run.json: the run's identity and origin, by which its other files are recognised.

It holds the identity (a random number, which the checkpoints repeat), the options, the environment (versions, machine,
threads, command), and the SHA-256 of the content of partition.json. A finished run adds those of the event log and of
the content of metrics.json.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from promptfed.environment import environment
from promptfed.errors import DataError, FormatError, RunError
from promptfed.files.sealed_json import checksum, plain_json
from promptfed.printable import printable
from promptfed.readers.content import expected_content
from promptfed.runs.checkpoint import Checkpoint
from promptfed.runs.client_rows import ClientRows
from promptfed.runs.directory import RunDirectory
from promptfed.runs.events import EventLog
from promptfed.runs.journal import differences
from promptfed.runs.model import has_fingerprint

FILE = "run.json"
FORMAT = 1
GONE = (
    f"{FILE} is gone: options, data and event log are not compared with those that the run was made with; "
    "promptfed train --resume writes it again"
)


def identity_of(run: RunDirectory, checkpoints: Mapping[str, Checkpoint | None]) -> str:
    """Return the identity of ``run``; a new one for a run that has none yet, or that an earlier version began.

    Args:
        run: The run.
        checkpoints: Stage -> the newest one.

    Raises:
        RunError: A checkpoint is of another run.
    """
    try:
        identity = str(read_passport(run).get("run", ""))
    except RunError:  # a damaged run.json is written anew
        identity = ""
    for stage, checkpoint in checkpoints.items():
        if checkpoint is not None and checkpoint.run:
            identity = identity or checkpoint.run
            if checkpoint.run != identity:
                raise RunError(
                    f"the checkpoints of {stage} in run '{printable(run.path)}' are of another run: bring its own "
                    "back, or move their folder away to train it anew"
                )
    return identity or uuid.uuid4().hex


def write_passport(
    run: RunDirectory, partition: Mapping[str, Any], identity: str = "", *, is_finished: bool = False
) -> None:
    """Write run.json; ``partition`` is the content of partition.json.

    Raises:
        DiskError: The disk refuses.
    """
    log: dict[str, Any] = {}
    if is_finished:
        size = run.events.size()
        log = {"events_bytes": size, "events_sha256": run.events.sha256(size)}
        log["metrics_sha256"] = checksum(run.read_metrics() or {})
    about = {
        "format": FORMAT,
        "run": identity,
        "environment": environment(),
        "data_sha256": checksum(plain_json(partition)),
        "config": run.config.model_dump(mode="json"),
        **log,
    }
    run.write_json(FILE, about)


def read_passport(run: RunDirectory) -> dict[str, Any]:
    """Return the content of run.json; empty where there is none.

    Raises:
        RunError: It is damaged or of another format.
    """
    about = run.read_json(FILE) or {}
    if about and about.get("format") != FORMAT:
        raise RunError(
            f"{printable(run.path / FILE)} has format {printable(about.get('format'))}, this version of promptfed "
            f"reads {FORMAT}; use the version that wrote the run"
        )
    return about


def check_passport(run: RunDirectory) -> list[str]:
    """Compare the run's files with its run.json, and return a line for each harmless difference.

    A run without run.json cannot be compared; one line says so if the run has data.

    Raises:
        RunError: Options or data are not those that the run was made with, or run.json was forged.
    """
    try:
        with expected_content(f"the values of {printable(run.path / FILE)}"):
            return _compared(run)
    except FormatError as error:
        raise RunError(str(error)) from error


def _compared(run: RunDirectory) -> list[str]:
    about = read_passport(run)
    if not about:
        return [GONE] if (run.path / "partition.json").exists() else []
    partition = run.read_json("partition.json")
    knows_backbone = has_fingerprint(partition or {})
    if changes := differences(about["config"], run.config.model_dump(mode="json"), knows_backbone=knows_backbone):
        raise RunError(f"config.yaml of run '{printable(run.path)}' has changed since the run was made: {changes}")
    if partition is None or checksum(partition) != about["data_sha256"]:
        fault = "gone" if partition is None else "not the one that the run was made with"
        raise RunError(
            f"partition.json of run '{printable(run.path)}' is {fault}: promptfed train --resume writes it again"
        )
    check_metrics(run)
    return [line for line in (_log_line(run, about),) if line]


def check_lost_partition(run: RunDirectory, current: Mapping[str, Any]) -> str:
    """Compare the data of a run whose partition.json is gone with the digest in run.json, and return a line about it.

    Args:
        run: The run, which has checkpoints.
        current: The record of the data as they are now.

    Raises:
        DataError: The data or the model are not those that the run was made with.
    """
    try:
        digest = read_passport(run).get("data_sha256")
    except RunError:  # a damaged run.json is written anew
        digest = None
    if digest is None or isinstance(current.get("clients"), ClientRows):
        return "partition.json is gone: the data are not compared with those that the run was made with"
    if checksum(plain_json(current)) != digest:
        raise DataError(
            f"partition.json of run '{printable(run.path)}' is gone, and data and model are not those of its {FILE}: "
            "bring back partition.json and the old data, or begin a new run"
        )
    return f"partition.json is gone: the data are those of {FILE}, so it is written again"


def check_metrics(run: RunDirectory) -> None:
    """Raise RunError if metrics.json is there and differs from the finished run's."""
    digest, metrics = read_passport(run).get("metrics_sha256"), run.read_metrics()
    if digest is not None and metrics is not None and checksum(metrics) != digest:
        raise RunError(
            f"metrics.json of run '{printable(run.path)}' is not the one that the run was finished with: promptfed "
            "train --resume writes it again"
        )


def _log_line(run: RunDirectory, about: Mapping[str, Any]) -> str:
    """Return what is wrong with the event log of a finished run; empty if nothing is, or the run is unfinished."""
    if "events_bytes" not in about or run.read_metrics() is None:
        return ""
    path, size = run.events.path, about["events_bytes"]
    if isinstance(size, int) and EventLog(path).sha256(size) == about["events_sha256"]:
        return ""
    fault = "not what was written" if path.exists() and path.stat().st_size else "gone"
    return (
        f"{path.name} is {fault}: curves and costs shown from it are not those "
        "of the run; its accuracies and prompts are not affected"
    )
