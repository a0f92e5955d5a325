"""The default engine: clients one after the other, or some side by side, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from promptfed.engines.base import Engine, OnReply, ShouldStop, never
from promptfed.types import Job, Reply, failed


class LocalEngine(Engine):
    """``worker`` turns jobs into replies; it is given ``client_batch`` of them at a time."""

    def __init__(self, worker: Callable[[Sequence[Job]], list[Reply]], client_batch: int = 1) -> None:
        self.worker, self.client_batch = worker, client_batch

    def run_round(
        self,
        jobs: Sequence[Job],
        on_reply: OnReply | None = None,
        should_stop: ShouldStop = never,
        seconds: float | None = None,
    ) -> list[Reply]:
        """Clients that were not begun after ``seconds`` are late; one that is under way is waited for."""
        replies: list[Reply] = []
        began = time.monotonic()
        ordered = sorted(jobs, key=lambda job: job.client)
        for start in range(0, len(ordered), self.client_batch):
            if should_stop():
                break
            some = ordered[start : start + self.client_batch]
            late = seconds is not None and time.monotonic() - began > seconds
            for reply in [failed(job, "late") for job in some] if late else self.worker(some):
                replies.append(reply)
                if on_reply is not None:
                    on_reply(reply)
        return replies
