"""A run's folder whose log the tests write themselves while observers watch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from promptfed.config import RunConfig
from promptfed.observers.audience import watch
from promptfed.observers.base import Observer, RunOutcome
from promptfed.runs.directory import RunDirectory

Happening = tuple[str, dict[str, Any]]


class Stopped(Exception):  # noqa: N818 (a request that was granted)
    """The run was asked to stop."""


class Story:
    """A run of one stage with one client, number 3. ``notes`` and ``warnings`` are what was said of its observers."""

    identity = "0123456789abcdef0123456789abcdef"
    start: Happening = ("run_start", {"method": "promptfl", "config": {}})
    resume: Happening = ("resume", {"killed": True})
    tests: Happening = (
        "evaluation",
        {
            "stage": "promptfl", "name": "PromptFL", "local": [{"client": 3, "accuracy": 0.5, "all_classes": 0.25}],
            "local_mean": 0.5, "base": 0.625, "new": None, "hm": None, "domains": {"a/b": 0.125},
        },
    )  # fmt: skip

    def __init__(self, folder: RunDirectory) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def client(self, number: int, loss: float = 0.5) -> Happening:
        """The client's work in round ``number``."""
        figures = {"failure": "", "loss": loss, "accuracy": 0.75, "samples": 8, "oracle_calls": 2}
        costs = {"bytes_up": 10, "bytes_down": 20, "seconds": 0.25}
        return "client", {"stage": "promptfl", "round": number, "client": 3, **figures, **costs}

    def round(self, number: int, loss: float = 0.5) -> list[Happening]:
        """Round ``number`` as a whole."""
        figures = {"loss": loss, "val_accuracy": float("nan"), "clients": 1, "bytes_up": 10, "bytes_down": 20}
        return [self.client(number, loss), ("round", {"stage": "promptfl", "round": number, **figures})]

    def tell(self, observers: Sequence[Observer], *happenings: Happening, stops: bool = False) -> None:
        """Write ``happenings`` into the log while ``observers`` watch; then the run is finished, or it ``stops``."""
        notes, warnings, report = self.notes.append, self.warnings.append, self.folder.path / "report.html"
        try:
            with watch(self.folder, self.identity, observers, note=notes, warn=warnings, stop=Stopped) as audience:
                for event, fields in happenings:
                    self.folder.events.write(event, **fields)
                if stops:
                    raise Stopped
                report.write_text("<p>a report</p>")
                audience.end(RunOutcome({"method": {"base": 0.5}}, ("method", "base"), (("a|b", "50.0"),), report))
        except Stopped:
            pass


@pytest.fixture
def story(tmp_path: Path) -> Story:
    config = RunConfig(rounds=2, method_options={"lr": 0.125})
    return Story(RunDirectory.create(tmp_path / "tale", config, label=""))
