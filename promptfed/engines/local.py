"""The default engine: it trains clients in this process, one by one or some side by side."""

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
    """Clients in this process, one by one or ``client_batch`` of them side by side."""

    protects_examples = True

    def __init__(self, worker: Worker, client_batch: int = 1, client_seconds: float | None = None) -> None:
        """Make the engine.

        Args:
            worker: Turns jobs into replies. It receives ``client_batch`` jobs at a time.
            client_batch: The number of clients that are trained side by side.
            client_seconds: The limit for one client, in seconds; None sets no limit. The engine interrupts a slower
                client where ``interrupted_after`` can, and discards its reply elsewhere.
        """
        self.worker, self.client_batch, self.client_seconds = worker, client_batch, client_seconds

    @classmethod
    def check(cls, config: RunConfig) -> None:
        values = {"--actors": config.actors, "--ray-address": config.ray_address}
        if useless := ", ".join(flag for flag, value in values.items() if value is not None):
            raise ConfigError(f"{useless} goes with --engine ray, and the engine is '{config.engine}': leave it out")

    @classmethod
    def for_stage(cls, worker: Worker, config: RunConfig) -> Self:
        return cls(worker, config.clients_at_once, config.client_seconds)

    def run_round(
        self,
        jobs: Sequence[Job],
        on_reply: OnReply | None = None,
        should_stop: ShouldStop = never,
        seconds: float | None = None,
    ) -> list[Reply]:
        """Run the jobs in order of clients.

        A client that has not started after ``seconds`` is late. The engine waits for one that is at work.
        """
        replies: list[Reply] = []
        start_time = time.monotonic()
        ordered = sorted(jobs, key=lambda job: job.client)
        for start in range(0, len(ordered), self.client_batch):
            if should_stop():
                break
            batch = ordered[start : start + self.client_batch]
            late = seconds is not None and time.monotonic() - start_time > seconds
            for reply in [failed(job, LATE) for job in batch] if late else self._in_time(batch):
                replies.append(reply)
                if on_reply is not None:
                    on_reply(reply)
        return replies

    def _in_time(self, jobs: Sequence[Job]) -> list[Reply]:
        """Return the replies to ``jobs``, with a failure for each client that exceeds its limit.

        Clients that are trained side by side share the sum of their limits. If they exceed it, each is tried alone.
        """
        if self.client_seconds is None:
            return run_isolated(self.worker, jobs)
        limit, start_time = self.client_seconds * len(jobs), time.monotonic()
        try:
            with interrupted_after(limit):
                replies = run_isolated(self.worker, jobs)
        except OutOfTime:
            replies = []
        elapsed = time.monotonic() - start_time
        if replies and elapsed <= limit:
            return replies
        if len(jobs) > 1:
            return [self._in_time([job])[0] for job in jobs]
        LOG.warning("client %d was stopped after %.1f s, its limit is %g", jobs[0].client, elapsed, limit)
        return [failed(jobs[0], LATE, elapsed)]
