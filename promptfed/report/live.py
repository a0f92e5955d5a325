"""Live progress of a run on a terminal: a bar for each stage with loss, accuracy, bytes, lost updates, time left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from promptfed.counts import number_of, number_or_dash
from promptfed.errors import ConfigError
from promptfed.printable import LONGEST, printable
from promptfed.progress import Progress
from promptfed.report.consoles import draws_bars, messages
from promptfed.report.oracle_usage import asked_words
from promptfed.types import Incident, Reply
from promptfed.usage import Usage

P = TypeVar("P", bound=Progress)
MOST_LINES = 100
"""Lines of a stage where there are no bars."""
NARROW = 100
"""On a terminal with fewer columns, a round's figures have short names."""


class LiveProgress(Progress):
    """Progress as bars on a terminal, elsewhere (a log file, CI) as a line a round, at most ``MOST_LINES`` a stage."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = RichProgress(
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(bar_width=max(6, min(24, console.width - 76))),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            # Last, and cut where the terminal ends: the times before it are always whole.
            TextColumn(
                "{task.fields[said]}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
            ),
            console=console,
            expand=True,
            disable=not draws_bars(console),
        )
        self._task: TaskID | None = None
        self._total = self._clients = self._done = self._bytes = self._lost = 0
        self._said = ""

    def __enter__(self) -> LiveProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def features(self, done: int, total: int) -> None:
        if self._task is None:
            self._task = self._bars.add_task("features", total=total, said="examples encoded once, then cached")
        self._bars.update(self._task, completed=done)
        if done == total:
            self._line(f"features: {number_of('example', total)} encoded")
            self._task = None

    def personalized(self, done: int, total: int) -> None:
        if self._task is None:
            self._task = self._bars.add_task("clients", total=total, said="personalized")
        self._bars.update(self._task, completed=done)

    def stage(self, name: str, rounds: int, clients_a_round: int, finished: int, bytes_sent: int = 0) -> None:
        self._total, self._clients, self._bytes, self._lost = rounds, clients_a_round, bytes_sent, 0
        self._done, self._said = finished * clients_a_round, "starting"
        self._task = self._bars.add_task(name, total=rounds * clients_a_round, completed=self._done, said=self._said)

    def client(self, name: str, reply: Reply) -> None:
        self._done += 1
        self._lost += bool(reply.failure)
        if self._task is not None:
            self._bars.update(self._task, completed=self._done)

    def incident(self, name: str, incident: Incident) -> None:
        self._lost += incident.kind == "refused"
        super().incident(name, incident)

    def round(
        self, name: str, round: int, loss: float, val_accuracy: float, bytes_sent: int, asked: Usage | None = None
    ) -> None:
        self._bytes += bytes_sent
        figures = f"{round_words(loss, val_accuracy)}  {decimal(self._bytes)} sent"
        lost_words = f"  {self._lost} lost" if self._lost else ""
        oracle = f"  {asked_words(asked)}" if asked is not None else ""
        self._said = f"round {round}/{self._total}  {figures}{lost_words}{oracle}"
        if self._task is not None:
            short = (
                f"{round}/{self._total} loss {number_or_dash(loss, 3)} val {number_or_dash(100 * val_accuracy, 1)} %"
            )
            short += f" {decimal(self._bytes)}{lost_words}{oracle}"
            self._bars.update(self._task, said=short if self.console.width < NARROW else self._said)
        if round == self._total or round % -(-self._total // MOST_LINES) == 0:
            self._line(f"{name}: {self._said}")

    def note(self, text: str) -> None:
        self._bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _line(self, text: str) -> None:
        if not draws_bars(self.console):
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def round_words(loss: float, val_accuracy: float) -> str:
    """Format what came out of a round."""
    return f"loss {number_or_dash(loss, 3)}  val acc {number_or_dash(100 * val_accuracy, 1)} %"


def live_progress(progress: bool | Progress) -> AbstractContextManager[Progress]:
    """Return the progress object of a run: the given one, bars on stderr (True), or a silent one (False)."""
    return chosen_progress(progress, Progress, LiveProgress)


def chosen_progress(
    progress: bool | P, silent: type[P], drawn: Callable[[Console], AbstractContextManager[P]]
) -> AbstractContextManager[P]:
    """Return ``progress`` itself if it is an object, else a ``drawn`` one on stderr (True) or a ``silent`` one.

    Raises ConfigError for what is none of these.
    """
    check_progress(progress, silent)
    if isinstance(progress, silent):
        return nullcontext(progress)
    return drawn(messages()) if progress else nullcontext(silent())


def check_progress(progress: object, kind: type[Progress]) -> None:
    """Raise ConfigError unless ``progress`` is True, False or an object of ``kind``."""
    if not isinstance(progress, bool | kind):
        raise ConfigError(
            f"progress is {printable(repr(progress), LONGEST)}: give True, False, or a {kind.__name__} object"
        )
