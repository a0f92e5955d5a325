"""run.json: what a run was made with, by which its other files are known again.

It holds the run's identity (a random number, which its checkpoints repeat), the options, the environment (versions,
machine, threads, command), the SHA-256 of what partition.json holds, and once the run is finished those of the event
log and of what metrics.json holds.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any

from promptfed.environment import environment
from promptfed.errors import RunError
from promptfed.files.sealed_json import checksum, plain_json
from promptfed.printable import printable
from promptfed.runs.checkpoint import Checkpoint
from promptfed.runs.directory import RunDirectory
from promptfed.runs.journal import differences
from promptfed.runs.model import has_fingerprint

FILE = "run.json"
FORMAT = 1
GONE = (
    f"{FILE} is gone: options, data and event log are not compared with those that the run was made with; "
    "promptfed train --resume writes it again"
)


def identity_of(run: RunDirectory, checkpoints: Mapping[str, Checkpoint | None]) -> str:
    """Return the identity of ``run``, whose ``checkpoints`` (stage -> the newest) must all be its own; a new one for a
    run that has none yet, or that an earlier version began.

    Raises RunError if a checkpoint is of another run.
    """
    try:
        own = str(read_passport(run).get("run", ""))
    except RunError:  # a damaged run.json is written anew
        own = ""
    for stage, checkpoint in checkpoints.items():
        if checkpoint is not None and checkpoint.run:
            own = own or checkpoint.run
            if checkpoint.run != own:
                raise RunError(
                    f"the checkpoints of {stage} in run '{printable(run.path)}' are of another run: bring its own "
                    "back, or move their folder away to train it anew"
                )
    return own or uuid.uuid4().hex


def write_passport(
    run: RunDirectory, partition: Mapping[str, Any], identity: str = "", *, is_finished: bool = False
) -> None:
    """Write run.json; ``partition`` is what partition.json holds. Raises DiskError if the disk refuses."""
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
    """Return what run.json holds; empty where there is none. Raises RunError if it is damaged or of another format."""
    about = run.read_json(FILE) or {}
    if about and about.get("format") != FORMAT:
        raise RunError(
            f"{printable(run.path / FILE)} has format {printable(about.get('format'))}, this version of promptfed "
            f"reads {FORMAT}; use the version that wrote the run"
        )
    return about


def check_passport(run: RunDirectory) -> list[str]:
    """Compare the run's files with its run.json, and return in a line each what is not as it was but does no harm.

    A run without one cannot be compared, which is said once it has data. Raises RunError if options or data
    are not those that the run was made with.
    """
    about = read_passport(run)
    if not about:
        return [GONE] if (run.path / "partition.json").exists() else []
    partition = run.read_json("partition.json")
    knows_backbone = has_fingerprint(partition or {})
    if changes := differences(about["config"], run.config.model_dump(mode="json"), knows_backbone=knows_backbone):
        raise RunError(f"config.yaml of run '{printable(run.path)}' is not the one that it was made with: {changes}")
    if partition is None or checksum(partition) != about["data_sha256"]:
        what = "gone" if partition is None else "not the one that the run was made with"
        raise RunError(
            f"partition.json of run '{printable(run.path)}' is {what}: promptfed train --resume writes it again"
        )
    check_metrics(run)
    return [line for line in (_log_line(run, about),) if line]


def check_metrics(run: RunDirectory) -> None:
    """Raise RunError if metrics.json is there and is not what the run was finished with."""
    expected, metrics = read_passport(run).get("metrics_sha256"), run.read_metrics()
    if expected is not None and metrics is not None and checksum(metrics) != expected:
        raise RunError(
            f"metrics.json of run '{printable(run.path)}' is not the one that the run was finished with: promptfed "
            "train --resume writes it again"
        )


def _log_line(run: RunDirectory, about: Mapping[str, Any]) -> str:
    """What is wrong with the event log of a finished run; empty if nothing is, or the run goes on."""
    if "events_bytes" not in about or run.read_metrics() is None:
        return ""
    path = run.events.path
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content[: about["events_bytes"]]).hexdigest() == about["events_sha256"]:
        return ""
    return (
        f"{path.name} is {'not what was written' if content else 'gone'}: curves and costs shown from it are not those "
        "of the run; its accuracies and prompts are not affected"
    )
