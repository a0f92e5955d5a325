"""Live progress of a comparison on a terminal: the number of the run, time left, and the current run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from promptfed.printable import plain_text
from promptfed.progress import ComparisonProgress
from promptfed.report.consoles import draws_bars
from promptfed.report.live import chosen_progress, round_words
from promptfed.report.oracle_usage import asked_words
from promptfed.report.tables import percent
from promptfed.types import Reply
from promptfed.usage import Usage


class LiveComparison(ComparisonProgress):
    """Two bars on a terminal, all runs and the current one; elsewhere a line for each finished run."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = RichProgress(
            TextColumn("{task.description}", markup=False, table_column=_cut(max_width=max(12, console.width // 4))),
            BarColumn(bar_width=max(6, min(24, console.width - 70))),
            # Last, and cut where the terminal ends.
            TextColumn("{task.fields[said]}", markup=False, table_column=_cut(ratio=1)),
            console=console,
            expand=True,
            disable=not draws_bars(console),
        )
        self._all: TaskID | None = None
        self._one: TaskID | None = None
        self._rounds = 0
        self._said = ""

    def __enter__(self) -> LiveComparison:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, number: int, total: int, what: str, seconds_left: float | None) -> None:
        time_left = "" if seconds_left is None else f", about {readable_time(seconds_left)} left"
        self._said = f"[{number}/{total}] {what}"
        if self._all is None or self._one is None:
            self._all = self._bars.add_task("all", total=total, said="")
            self._one = self._bars.add_task("run", total=None, said="")
        self._bars.update(self._all, completed=number - 1, said=f"{number} of {total}{time_left}")
        self._bars.reset(self._one, total=None, description=what, said="")
        if not draws_bars(self.console):
            self._said += f" ({time_left.removeprefix(', ')})" if time_left else ""

    def end(self, figures: Mapping[str, Any]) -> None:
        names = [name for name in ("local", "base", "new", "hm") if figures.get(name) is not None]
        text = "  ".join(f"{name.upper() if name == 'hm' else name} {percent(figures[name])}" for name in names)
        self.note(f"{self._said}: {text}")

    def features(self, done: int, total: int) -> None:
        if self._one is not None:
            self._bars.update(self._one, completed=done, total=total, said=f"{done}/{total} examples encoded")

    def stage(self, name: str, rounds: int, clients_a_round: int, finished: int, bytes_sent: int = 0) -> None:
        self._rounds = rounds
        if self._one is not None:
            steps, total = finished * clients_a_round, rounds * clients_a_round
            self._bars.update(self._one, completed=steps, total=total, said="starting")

    def client(self, name: str, reply: Reply) -> None:
        if self._one is not None:
            self._bars.advance(self._one)

    def round(
        self, name: str, round: int, loss: float, val_accuracy: float, bytes_sent: int, asked: Usage | None = None
    ) -> None:
        if self._one is not None:
            text = f"{round}/{self._rounds}  {round_words(loss, val_accuracy)}"
            text += f"  {asked_words(asked)}" if asked is not None else ""
            self._bars.update(self._one, said=text)

    def note(self, text: str) -> None:
        self._bars.console.print(plain_text(text), soft_wrap=True)


def _cut(**options: Any) -> Column:
    """Return a column that stays on one line and ends with an ellipsis where it is too long."""
    return Column(no_wrap=True, overflow="ellipsis", **options)


def readable_time(seconds: float) -> str:
    """Format seconds: ``75`` as ``"1 min"``, ``5400`` as ``"1 h 30 min"``; below a minute in seconds."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def live_comparison(progress: bool | ComparisonProgress) -> AbstractContextManager[ComparisonProgress]:
    """Return the progress object of a comparison: the given one, bars on stderr (True), or a silent one (False)."""
    return chosen_progress(progress, ComparisonProgress, LiveComparison)
