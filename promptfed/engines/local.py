"""The default engine: clients one after the other, or some side by side, in this process."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Self

from promptfed.config import RunConfig
from promptfed.engines.base import LATE, Engine, OnReply, ShouldStop, Worker, never
from promptfed.engines.registry import ENGINES
from promptfed.engines.timeout import OutOfTime, interrupted_after
from promptfed.engines.worker import run_isolated
from promptfed.errors import ConfigError
from promptfed.types import Job, Reply, failed

LOG = logging.getLogger(__name__)


@ENGINES.register("local")
class LocalEngine(Engine):
    """Clients one after the other in this process, or --client-batch of them side by side.

    ``worker`` turns jobs into replies; it is given ``client_batch`` of them at a time.

    A client that takes longer than ``client_seconds`` is interrupted (``interrupted_after`` says where that can be) or
    its reply is thrown away.
    """

    def __init__(self, worker: Worker, client_batch: int = 1, client_seconds: float | None = None) -> None:
        self.worker, self.client_batch, self.client_seconds = worker, client_batch, client_seconds

    @classmethod
    def check(cls, config: RunConfig) -> None:
        given = {"--actors": config.actors, "--ray-address": config.ray_address}
        if useless := ", ".join(flag for flag, value in given.items() if value is not None):
            raise ConfigError(f"{useless} goes with --engine ray, and the engine is '{config.engine}': leave it out")

    @classmethod
    def for_stage(cls, worker: Worker, config: RunConfig) -> Self:
        return cls(worker, config.client_batch, config.client_seconds)

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
            for reply in [failed(job, LATE) for job in some] if late else self._in_time(some):
                replies.append(reply)
                if on_reply is not None:
                    on_reply(reply)
        return replies

    def _in_time(self, jobs: Sequence[Job]) -> list[Reply]:
        """The replies to ``jobs``, those of clients past their limit replaced by failures. Clients that are trained
        side by side have the sum of their times; if that does not do, each is tried alone."""
        if self.client_seconds is None:
            return run_isolated(self.worker, jobs)
        limit, began = self.client_seconds * len(jobs), time.monotonic()
        try:
            with interrupted_after(limit):
                replies = run_isolated(self.worker, jobs)
        except OutOfTime:
            replies = []
        taken = time.monotonic() - began
        if replies and taken <= limit:
            return replies
        if len(jobs) > 1:
            return [self._in_time([job])[0] for job in jobs]
        LOG.warning("client %d was stopped after %.1f s, its limit is %g", jobs[0].client, taken, limit)
        return [failed(jobs[0], LATE, taken)]
