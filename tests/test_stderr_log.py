"""A warning is seen on stderr while the command line runs, whoever else listens, and once only."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from promptfed.stderr_log import TOLD, warnings_on_stderr

log = logging.getLogger("promptfed.anything")


def test_a_warning_is_printed_though_run_log_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = logging.FileHandler(tmp_path / "run.log")
    log.addHandler(file)
    with warnings_on_stderr():
        log.warning("held by %s", "process 7")
        log.info("of no interest")
    log.removeHandler(file)
    file.close()
    assert capsys.readouterr().err == "note: held by process 7\n"
    assert "held by process 7" in (tmp_path / "run.log").read_text()


def test_what_is_told_otherwise_is_not_printed_again(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings_on_stderr():
        log.warning("told already", extra=TOLD)
    assert capsys.readouterr().err == ""


def test_escape_codes_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings_on_stderr():
        log.warning("site %s", "\x1b[2J")
    assert "\x1b" not in capsys.readouterr().err


def test_it_ends_with_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    before = list(logging.getLogger("promptfed").handlers)
    with warnings_on_stderr():
        pass
    assert logging.getLogger("promptfed").handlers == before
