"""Numbers as JSON lines in a file, for pandas, jq and the like."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from promptfed.files import strict_json
from promptfed.files.atomic import append_bytes
from promptfed.observers.base import OBSERVERS, Observer, ObserverConfig, RunDescription, RunOutcome, RunState
from promptfed.observers.scalars import Scalars
from promptfed.runs.events import Event

FILE = "observed.jsonl"


@OBSERVERS.register("jsonl")
class JsonLines(Observer):
    """A file with one flat JSON object a line.

    Each line names the run, so one file can hold several. Lines are only ever appended. A run that goes on after it was
    killed can repeat the lines of its last round: of two lines with the same stage and round the later one counts.
    """

    class Config(ObserverConfig):
        """Options of this observer."""

        path: str | None = Field(None, description=f"the file; by default {FILE} in the run's folder")

    config: Config

    def begin(self, run: RunDescription) -> str:
        self._run = {"run": run.name, "identity": run.identity}
        path = self.config.path
        self._path = run.folder / FILE if path is None else Path(path).expanduser().resolve()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        is_known = self._knows(run.identity)
        self._write("begin", options=dict(run.options))
        if not is_known:
            self.replay(run)
        return str(self._path)

    def _knows(self, identity: str) -> bool:
        """Return whether a line of the file names the run; a device or a pipe, which may never end, is not read."""
        if not self._path.is_file():
            return False
        with self._path.open("rb") as lines:
            return any(identity.encode() in line for line in lines)

    def event(self, event: Event) -> None:
        if event["event"] in ("incident", "stopped"):
            about = {name: event[name] for name in ("stage", "round", "client", "kind", "why") if name in event}
            self._write(event["event"], **about)

    def log(self, scalars: Scalars) -> None:
        self._write("scalars", time=scalars.time, stage=scalars.stage, round=scalars.step, **scalars.values)

    def end(self, outcome: RunOutcome) -> None:
        self._write("end", metrics=outcome.metrics, report=outcome.report and str(outcome.report))

    def close(self, state: RunState) -> None:
        self._write("close", state=state)

    def _write(self, event: str, *, time: float | None = None, **fields: Any) -> None:
        moment = datetime.now(UTC).timestamp() if time is None else time
        line = strict_json.dumps({"event": event, **self._run, "time": moment, **fields})
        append_bytes(self._path, line.encode() + b"\n")
