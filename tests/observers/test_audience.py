"""Whoever watches a run can neither stop it nor hold it up."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import promptfed as pf
from promptfed.observers import audience
from promptfed.observers.base import Observer, RunDescription


class Diary(Observer):
    """Keeps the names of the hooks in the order in which they are called, and fails in ``fails``."""

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self.label = "diary"
        self.fails, self.hooks, self.run = fails, list[str](), None

    def keep(self, hook: str) -> None:
        self.hooks.append(hook)
        if hook == self.fails:
            raise SystemExit("the disk\nis full")

    def begin(self, run: RunDescription) -> str:
        self.run = run
        self.keep("begin")
        return "on the shelf"

    def event(self, event: Any) -> None:
        self.keep(event["event"])

    def log(self, scalars: Any) -> None:
        self.keep("log")

    def end(self, outcome: Any) -> None:
        self.keep("end")

    def close(self, state: str) -> None:
        self.keep(f"close {state}")


def test_hooks_come_in_order_and_the_run_is_described(story: Any) -> None:
    diary = Diary()
    story.tell([diary], story.start, *story.round(1), ("run_end", {}))
    assert diary.hooks == ["begin", "run_start", "client", "log", "round", "log", "run_end", "end", "close finished"]
    assert diary.run.options["method.lr"] == 0.125
    assert (diary.run.name, diary.run.identity, diary.run.past) == ("tale", story.identity, ())
    assert (story.notes, story.warnings) == (["diary: on the shelf"], [])
    assert story.folder.events.listeners == []


class Public(Diary):
    """Says all that it knows."""

    def begin(self, run: RunDescription) -> str:
        return "http://me:secret@host/runs/1"

    def event(self, event: Any) -> None:
        raise OSError("no answer from http://me:secret@host/api")


def test_no_password_of_a_tracker_is_told(story: Any) -> None:
    story.tell([Public()], story.start)
    assert story.notes == ["diary: http://***@host/runs/1"]
    assert story.warnings == ["observer 'diary' is left out: OSError: no answer from http://***@host/api"]


def test_a_run_that_goes_on_tells_what_was_before(story: Any) -> None:
    first, second = Diary(), Diary()
    story.tell([first], story.start, *story.round(1), stops=True)
    assert first.hooks[-1] == "close stopped"
    story.tell([second], story.resume, *story.round(2))
    assert [event["event"] for event, _ in second.run.past] == ["run_start", "client", "round"]
    assert second.run.steps == {"promptfl": 1}


@pytest.mark.parametrize("hook", ["begin", "client", "log", "end", "close finished"])
def test_one_that_fails_is_warned_of_once_and_left_out(story: Any, hook: str) -> None:
    failing, healthy = Diary(hook), Diary()
    healthy.label = "other"
    story.tell([failing, healthy], story.start, *story.round(1), ("run_end", {}))
    assert story.warnings == ["observer 'diary' is left out: SystemExit: the disk is full"]
    assert failing.hooks.count(hook) == 1
    assert failing.hooks[-1] in ("close failed", hook)
    assert healthy.hooks[-1] == "close finished"


def test_a_tracker_that_hangs_holds_up_nothing(story: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audience, "PATIENCE", 0.1)
    free = threading.Event()
    hanging, healthy = Diary(), Diary()
    healthy.label = "other"
    hanging.begin = lambda run: str(free.wait(60))  # type: ignore[method-assign]
    story.tell([hanging, healthy], story.start, *story.round(1))
    free.set()
    assert story.warnings == ["observer 'diary' is left out: it has not finished within 0 s"]
    assert healthy.hooks[-1] == "close finished"


@pytest.mark.slow
def test_the_result_is_the_same_with_and_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {
        "clients": 2, "rounds": 1, "shots": 1, "threads": 1, "baselines": (),
        "task_options": {"test_per_class": 2, "val_shots": 1},
    }  # fmt: skip
    plain = pf.train(folder=tmp_path / "plain", progress=False, **options)
    capsys.readouterr()
    watched = pf.train(folder=tmp_path / "watched", observers=["jsonl", Diary("log")], **options)
    assert watched.metrics["prompt_sha256"] == plain.metrics["prompt_sha256"]
    assert watched.metrics["method"] == plain.metrics["method"]
    assert capsys.readouterr().err.count("observer 'diary' is left out: SystemExit: the disk is full") == 1
    assert watched.config == plain.config
    assert (tmp_path / "watched" / "observed.jsonl").is_file()
