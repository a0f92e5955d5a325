"""What a run shows on terminals of all widths, and what it writes where there is none: a line a round."""

import io
import math
import re
from collections.abc import Sequence

import pytest
from rich.console import Console

from promptfed.prompt_state import PromptState
from promptfed.report.live import LiveProgress, round_words
from promptfed.report.live_comparison import LiveComparison
from promptfed.types import Broadcast, Job, Reply, Update, failed
from promptfed.usage import Usage


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=160)


def text(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def said(console: Console) -> list[str]:
    return text(console).splitlines()


def good(client: int) -> Reply:
    return Reply(client, 1, Update(client, PromptState(), 1, 0.5, 0.5), PromptState(), 0.1)


def lost(client: int) -> Reply:
    return failed(Job(client, Broadcast(1, PromptState())), "dropped out")


def test_lost_updates_are_counted_over_a_stage_and_forgotten_with_the_next(console: Console) -> None:
    with LiveProgress(console) as progress:
        progress.stage("PromptFL", rounds=2, clients_a_round=2, finished=0)
        progress.client("PromptFL", good(0))
        progress.client("PromptFL", lost(1))
        progress.round("PromptFL", 1, 0.5, 0.25, 1500)
        progress.client("PromptFL", lost(0))
        progress.client("PromptFL", lost(1))
        progress.round("PromptFL", 2, math.nan, 0.25, 1500)
        progress.stage("other", rounds=1, clients_a_round=1, finished=0)
        progress.client("other", good(0))
        progress.round("other", 1, 0.25, math.nan, 0)
    assert said(console) == [
        "PromptFL: round 1/2  loss 0.500  val acc 25.0 %  1.5 kB sent  1 lost",
        "PromptFL: round 2/2  loss -  val acc 25.0 %  3.0 kB sent  3 lost",
        "other: round 1/1  loss 0.250  val acc - %  0 bytes sent",
    ]


def test_what_a_black_box_was_asked_is_said_with_its_price(console: Console) -> None:
    with LiveProgress(console) as progress:
        progress.stage("m", rounds=2, clients_a_round=1, finished=0)
        progress.round("m", 1, 0.5, 0.25, 10, Usage(oracle_calls=1200, oracle_cache_hits=30))
        progress.round("m", 2, 0.5, 0.25, 10, Usage(oracle_calls=1300, oracle_cache_hits=30, oracle_retries=2, usd=0.5))
    assert said(console) == [
        "m: round 1/2  loss 0.500  val acc 25.0 %  10 bytes sent  oracle 1,200 calls, 30 known",
        "m: round 2/2  loss 0.500  val acc 25.0 %  20 bytes sent  oracle 1,300 calls, 30 known, 2 retries, 0.5000 USD",
    ]


@pytest.mark.parametrize(("rounds", "lines"), [(3, [1, 2, 3]), (100, range(1, 101)), (250, [*range(3, 250, 3), 250])])
def test_a_line_a_round_and_no_more_than_a_hundred(console: Console, rounds: int, lines: Sequence[int]) -> None:
    with LiveProgress(console) as progress:
        progress.stage("m", rounds=rounds, clients_a_round=1, finished=0)
        for round in range(1, rounds + 1):
            progress.round("m", round, 1.0, 0.5, 10)
    assert [line.split("/")[0] for line in said(console)] == [f"m: round {r}" for r in lines]
    assert "\x1b" not in text(console)


def test_a_dumb_terminal_has_lines_and_no_control_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with LiveProgress(console) as progress:
        progress.stage("m", rounds=2, clients_a_round=1, finished=0)
        progress.round("m", 1, 1.0, 0.5, 10)
        assert said(console) == ["m: round 1/2  loss 1.000  val acc 50.0 %  10 bytes sent"]
    assert "\x1b" not in text(console)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_time_left_of_a_comparison_is_whole(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), width=width, force_terminal=True, legacy_windows=False)
    with LiveComparison(console) as progress:
        progress.begin(7, 30, "a_method_with_a_long_name, search lr=0.003,optimizer=adam", 5400)
        progress.stage("m", rounds=20, clients_a_round=2, finished=0)
        progress.round("m", 12, 0.5, 0.25, 10)
    assert not re.search(r"\x1b\[(3\d|9\d)", text(console))
    lines = re.split(r"\r|\n", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text(console)))
    assert max(map(len, lines)) <= width
    assert any("7 of 30, about 1 h 30 min left" in line for line in lines)
    assert any("12/20  loss" in line for line in lines)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_times_are_whole_on_any_terminal(width: int) -> None:
    """What is said about a round comes last and is cut where the terminal ends; the times before it never are."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)
    with LiveProgress(console) as progress:
        progress.stage("PromptFL+FedAMP", rounds=20, clients_a_round=2, finished=0)
        progress.round("PromptFL+FedAMP", 12, 0.5, 0.25, 1_234_567, Usage(oracle_calls=123_456, oracle_cache_hits=30))
    frames = [
        line for line in re.split(r"\r|\n", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text(console))) if "Fed" in line
    ]
    assert frames
    for frame in frames:
        assert len(frame) <= width
        assert re.search(r" \d:\d\d:\d\d left (\d|-):", frame), frame
    assert "12/20" in frames[-1]


def test_a_note_is_no_markup_and_is_not_wrapped_in_a_pipe(console: Console) -> None:
    note = "note: class '[red]x[/b]' " + "word " * 60
    LiveProgress(console).note(note)
    assert said(console) == [note]


def test_bytes_go_on_where_the_run_was_stopped() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    with LiveProgress(console) as progress:
        progress.stage("m", rounds=4, clients_a_round=1, finished=3, bytes_sent=2000)
        progress.round("m", 4, 0.5, 0.25, 1000)
    assert "3.0 kB sent" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_round_of_a_comparison_that_looks_at_no_validation_data_has_a_dash() -> None:
    assert round_words(math.nan, math.nan) == "loss -  val acc - %"
    assert round_words(0.5, 0.25) == "loss 0.500  val acc 25.0 %"
