"""The default engine: one client after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from promptfed.engines.base import Engine, OnReply, ShouldStop, never
from promptfed.types import Job, Reply


class LocalEngine(Engine):
    def __init__(self, worker: Callable[[Job], Reply]) -> None:
        self.worker = worker

    def run_round(
        self, jobs: Sequence[Job], on_reply: OnReply | None = None, should_stop: ShouldStop = never
    ) -> list[Reply]:
        replies = []
        for job in sorted(jobs, key=lambda job: job.client):
            if should_stop():
                break
            reply = self.worker(job)
            replies.append(reply)
            if on_reply is not None:
                on_reply(reply)
        return replies
