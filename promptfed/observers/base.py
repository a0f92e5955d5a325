"""What a tracker of runs looks like to promptfed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from promptfed.errors import MissingPackageError
from promptfed.observers.scalars import Scalars
from promptfed.registry import Registry
from promptfed.runs.events import Event

RunState = Literal["finished", "stopped", "failed"]


class ObserverConfig(BaseModel):
    """Base of every observer's options: frozen, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class RunDescription:
    """A run as it begins, or as it goes on.

    Attributes:
        identity: A random number in hexadecimal that stays with the run when it is resumed.
        name: The name of its folder; of a run of a comparison also those of the folders above it.
        folder: The folder itself, absolute.
        options: All options by the names of ``--set``: ``{"rounds": 20, "method.lr": 0.01}``.
        past: What happened before, oldest first, with the numbers of each event; empty for a new run.
    """

    identity: str
    name: str
    folder: Path
    options: Mapping[str, Any]
    past: tuple[tuple[Event, Scalars | None], ...] = ()

    @property
    def steps(self) -> dict[str, int]:
        """Return the last finished round of each stage."""
        return {scalars.stage: scalars.step for event, scalars in self.past if scalars and event["event"] == "round"}


@dataclass(frozen=True)
class RunOutcome:
    """A finished run.

    Attributes:
        metrics: What ``metrics.json`` holds.
        columns: The heads of the table of results.
        rows: The rows of the table as text, as long as ``columns``.
        report: The file ``report.html``, None where there is none (a run of a comparison).
    """

    metrics: Mapping[str, Any]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    report: Path | None

    def markdown(self) -> str:
        """Return the table of results in Markdown."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in lines)


class Observer:
    """Is told what happens in a run, in the order in which it happens. Every hook is optional to override.

    All hooks of one observer are called in one thread of its own, so a slow tracker holds up nothing. An observer that
    raises is named in one warning and left out from then on; the run goes on as if it had never been there.
    """

    Config: ClassVar[type[ObserverConfig]] = ObserverConfig
    packages: ClassVar[tuple[str, ...]] = ()
    """Top-level packages that must be installed."""
    extra: ClassVar[str] = ""
    """The extra of promptfed that installs them."""
    label: str = ""
    """The name in messages; by default the one that it is registered by."""

    def __init__(self, config: ObserverConfig | None = None) -> None:
        self.config = self.Config() if config is None else config

    def check(self) -> None:
        """Raise MissingPackageError if a package of the observer is missing. It is called before the run begins."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                fix = f"pip install 'promptfed[{self.extra}]'" if self.extra else f"install {package}"
                raise MissingPackageError(
                    f"observer '{self.label}' needs the package {package}, which is missing: {fix}"
                )

    def begin(self, run: RunDescription) -> str:
        """Begin to record ``run``, or go on with the record that the tracker has of it.

        Returns:
            Where a user finds the record: an address, a folder or a command; empty for none.
        """
        return ""

    def event(self, event: Event) -> None:
        """Record one event of ``events.jsonl``; promptfed/runs/events.py lists them."""

    def log(self, scalars: Scalars) -> None:
        """Record the numbers of an event that has some. It follows ``event``."""

    def end(self, outcome: RunOutcome) -> None:
        """Record the results of a run that is finished."""

    def close(self, state: RunState) -> None:
        """Write what is left, and release everything. Nothing is called after it."""

    def replay(self, run: RunDescription, after: Mapping[str, int] | None = None) -> None:
        """Record what happened before: for a tracker that begins a record of a run that goes on.

        Args:
            run: What the run is, with its past.
            after: Stage -> the last step that is on record; earlier ones are left out. None: record everything.
        """
        for event, scalars in run.past:
            if after is None:
                self.event(event)
            if scalars is not None and (after is None or scalars.step > after.get(scalars.stage, -1)):
                self.log(scalars)


OBSERVERS: Registry[type[Observer]] = Registry(
    "observer",
    "promptfed.observers",
    group="promptfed.observers",
    required=("Config", "check", "begin", "event", "log", "end", "close"),
)


def flat_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``config`` without levels, by the names of ``--set``: ``{"rounds": 20, "method.lr": 0.01}``."""
    return dict(_flat(config, ""))


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = prefix + name.removesuffix("_options")
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{key}.")
        else:
            yield key, value
