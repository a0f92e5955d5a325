"""TensorBoard: curves of all stages in one chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from promptfed.observers.base import OBSERVERS, Observer, ObserverConfig, RunDescription, RunOutcome, RunState
from promptfed.observers.scalars import RUN, Scalars
from promptfed.runs.events import Event


@OBSERVERS.register("tensorboard")
class TensorBoard(Observer):
    """Event files of TensorBoard, one folder for the method and one for each baseline.

    A run that goes on adds a file. What TensorBoard has of rounds that are trained again is replaced.
    """

    class Config(ObserverConfig):
        """Options of this observer."""

        folder: str | None = Field(
            None,
            description="a folder for many runs, each in one of its own; by default tensorboard in the run's folder",
        )

    config: Config
    packages, extra = ("tensorboard",), "tensorboard"

    def begin(self, run: RunDescription) -> str:
        folder = self.config.folder
        self._folder = (
            run.folder / "tensorboard"
            if folder is None
            else Path(folder).expanduser().resolve() / f"{run.name}-{run.identity[:8]}"
        )
        self._writers: dict[str, Any] = {}
        is_new = not any(self._folder.glob("*/events.out.tfevents.*"))
        self._steps = {} if is_new else run.steps
        self._is_new = is_new
        options = "\n".join(f"    {name}: {value}" for name, value in run.options.items())
        self._writer(RUN).add_text("options", options, 0)
        if is_new:
            self.replay(run)
        else:  # the clients of a round that is not finished: the new files begin after the last finished one
            self.replay(run, run.steps)
        return f"tensorboard --logdir {folder or self._folder}"

    def _writer(self, stage: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if stage not in self._writers:
            purge = None if self._is_new else self._steps.get(stage, -1) + 1
            self._writers[stage] = SummaryWriter(str(self._folder / stage), purge_step=purge)
        return self._writers[stage]

    def event(self, event: Event) -> None:
        if event["event"] in ("incident", "stopped"):
            writer = self._writer(str(event.get("stage", RUN)))
            writer.add_text(event["event"], str(event.get("why", "")), event.get("round") or 0)

    def log(self, scalars: Scalars) -> None:
        writer = self._writer(scalars.stage)
        for name, value in scalars.values.items():
            writer.add_scalar(name, value, scalars.step, walltime=scalars.time)
        if any(name in scalars.values for name in ("val_accuracy", "test/base")):
            writer.flush()

    def end(self, outcome: RunOutcome) -> None:
        writer = self._writer(RUN)
        writer.add_text("results", f"{outcome.markdown()}\n\n{outcome.report or ''}", 0)

    def close(self, state: RunState) -> None:
        for writer in self._writers.values():
            writer.close()
