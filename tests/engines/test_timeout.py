from __future__ import annotations

import signal
import threading
import time

import pytest

from promptfed.engines.local import LocalEngine
from promptfed.engines.timeout import OutOfTime, interrupted_after
from promptfed.prompt_state import PromptState
from promptfed.types import Broadcast, Job, failed


def test_work_is_interrupted_and_the_alarm_is_put_back():
    before, began = signal.getsignal(signal.SIGALRM), time.monotonic()
    with pytest.raises(OutOfTime), interrupted_after(0.2):
        time.sleep(30)
    assert time.monotonic() - began < 5
    assert signal.getsignal(signal.SIGALRM) is before
    time.sleep(0.3)  # no alarm goes off afterwards


def test_code_that_swallows_everything_is_interrupted_again():
    swallowed = []

    def swallows_everything():
        try:
            time.sleep(30)
        except BaseException as stop:
            swallowed.append(stop)
        time.sleep(30)

    with pytest.raises(OutOfTime), interrupted_after(0.2):
        swallows_everything()
    assert len(swallowed) == 1


def test_in_another_thread_a_reply_that_came_too_late_is_thrown_away():
    def worker(jobs):
        time.sleep(0.3 if jobs[0].client == 1 else 0)
        return [failed(job, "") for job in jobs]

    found = []
    jobs = [Job(client, Broadcast(1, PromptState())) for client in range(3)]
    thread = threading.Thread(target=lambda: found.extend(LocalEngine(worker, client_seconds=0.2).run_round(jobs)))
    thread.start()
    thread.join()
    assert [reply.failure for reply in found] == ["", "late", ""]


@pytest.mark.parametrize("seconds", [1e-9, 1e-6, 1e-5, 1e-4, 1e-3])
def test_a_very_short_limit_does_not_outlive_its_block(monkeypatch, seconds):
    settings = []
    monkeypatch.setattr(
        signal, "setitimer", lambda *words, whole=signal.setitimer: settings.append(words) or whole(*words)
    )
    before = signal.getsignal(signal.SIGALRM)
    for _ in range(200):
        try:
            with interrupted_after(seconds):
                pass
        except OutOfTime:
            pass
        assert signal.getsignal(signal.SIGALRM) is before
        assert settings[-1] == (signal.ITIMER_REAL, 0)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
