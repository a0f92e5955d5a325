"""A terminal is as wide as it is; a pipe is wide enough for every table."""

from __future__ import annotations

import pytest

from promptfed.report.consoles import PIPE_WIDTH, messages, output


@pytest.mark.parametrize("make", [output, messages])
def test_a_pipe_is_wide_and_the_environment_wins(make, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert make().width == PIPE_WIDTH
    monkeypatch.setenv("COLUMNS", "77")
    assert make().width == 77


def test_results_and_messages_go_to_their_streams(capsys):
    output().print("figures")
    messages().print("progress")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("figures\n", "progress\n")
