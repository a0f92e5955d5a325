"""run.log has all that a run says; the handlers of the program around it get what they would get without a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from promptfed.runs.run_log import LOGGER, attach_run_log

log = logging.getLogger("promptfed.training")


class Kept(logging.Handler):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def programs() -> Iterator[Kept]:
    """A handler as ``logging.basicConfig`` puts one on the root logger."""
    handler = Kept()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def speak() -> None:
    log.info("round 1")
    log.warning("a site is gone")


def test_the_programs_handlers_get_warnings_and_no_progress(programs: Kept, tmp_path: Path) -> None:
    nearer = Kept()
    LOGGER.addHandler(nearer)
    before = (LOGGER.level, LOGGER.propagate, list(LOGGER.handlers), list(nearer.filters))
    with attach_run_log(tmp_path / "run.log"):
        speak()
        later = Kept()  # as open_clip calls basicConfig in the middle of a run
        logging.getLogger().addHandler(later)
        speak()
        logging.getLogger().removeHandler(later)
    LOGGER.removeHandler(nearer)
    assert programs.lines == nearer.lines == ["a site is gone"] * 2
    assert later.lines == ["a site is gone"]
    assert (tmp_path / "run.log").read_text().count("INFO promptfed.training: round 1") == 2
    assert (LOGGER.level, LOGGER.propagate, [*LOGGER.handlers, nearer], list(nearer.filters)) == before


@pytest.mark.parametrize("name", ["", "promptfed"])
def test_a_program_that_asks_for_progress_gets_it(name: str, programs: Kept, tmp_path: Path) -> None:
    chosen = logging.getLogger(name)
    before = chosen.level
    chosen.setLevel(logging.INFO)
    with attach_run_log(tmp_path / "run.log"):
        speak()
    assert chosen.level == logging.INFO
    chosen.setLevel(before)
    assert programs.lines == ["round 1", "a site is gone"]


def test_two_runs_side_by_side_leave_the_logger_as_it_was(programs: Kept, tmp_path: Path) -> None:
    before = (LOGGER.level, LOGGER.propagate, list(LOGGER.handlers))
    one, other = attach_run_log(tmp_path / "1.log"), attach_run_log(tmp_path / "2.log")
    one.close()
    speak()
    other.close()
    speak()
    assert programs.lines == ["a site is gone"] * 2
    assert (tmp_path / "2.log").read_text().count("round 1") == 1
    assert (LOGGER.level, LOGGER.propagate, list(LOGGER.handlers)) == before
