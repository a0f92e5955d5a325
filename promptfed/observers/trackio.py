"""trackio: a tracker whose store is a SQLite file here, a Hugging Face Space, or a server of one's own."""

from __future__ import annotations

import logging
import os
from typing import Any

from pydantic import Field

from promptfed.observers.base import OBSERVERS, Observer, ObserverConfig, RunDescription, RunOutcome, RunState
from promptfed.observers.scalars import Scalars
from promptfed.printable import LONGEST, printable

log = logging.getLogger(__name__)
ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
"""Variables that name another machine."""


@OBSERVERS.register("trackio")
class Trackio(Observer):
    """A run of trackio, in the SQLite store below TRACKIO_DIR unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL is set.

    Credentials come from trackio's own variables (TRACKIO_WRITE_TOKEN, HF_TOKEN). A run that goes on continues the same
    run.
    """

    class Config(ObserverConfig):
        """Options of this observer."""

        project: str = Field("promptfed", description="the project")
        group: str | None = Field(None, description="runs of one group are shown together")
        space: str | None = Field(None, description="a Hugging Face Space; it is private if promptfed creates it")

    config: Config
    packages, extra = ("trackio",), "trackio"

    def begin(self, run: RunDescription) -> str:
        import trackio
        import trackio.run
        import trackio.utils

        for module in (trackio, trackio.run, trackio.utils):
            vars(module)["print"] = _whisper  # stdout is promptfed's own, and --json is read by programs
        name = f"{run.name}-{run.identity[:8]}"  # trackio finds runs by their names
        is_elsewhere = bool(self.config.space or any(map(os.environ.get, ELSEWHERE)))
        is_known = any(earlier.name == name for earlier in _runs(self.config.project))
        self._run: Any = trackio.init(
            project=self.config.project,
            name=name,
            group=self.config.group,
            space_id=self.config.space,
            private=True,
            config=dict(run.options),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        if not (is_known or is_elsewhere):  # another machine's runs are unknown
            self.replay(run)
        return f"trackio show --project {self.config.project}"

    def log(self, scalars: Scalars) -> None:
        self._run.log(scalars.named(), step=scalars.step)

    def end(self, outcome: RunOutcome) -> None:
        import trackio

        rows = [list(row) for row in outcome.rows]
        self._run.log({"results": trackio.Table(columns=list(outcome.columns), data=rows)})
        if outcome.report is not None:
            self._run.log_artifact(str(outcome.report), name=f"report-{self._run.name}", type="report")

    def close(self, state: RunState) -> None:
        if hasattr(self, "_run"):
            self._run.finish()


def _runs(project: str) -> list[Any]:
    import trackio

    try:
        return list(trackio.Api().runs(project))
    except ValueError:  # there is no such project yet
        return []


def _whisper(*words: Any, **_: Any) -> None:
    """Write trackio's printed lines to run.log."""
    log.info("%s", printable(" ".join(map(str, words)), LONGEST))
