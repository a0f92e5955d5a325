"""Requests that arrive together go through the model together, in one thread of their own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from promptfed.errors import PromptFedError


class QueueFullError(PromptFedError):
    """Too many examples wait, or the server is shutting down: the same request may be answered later."""


@dataclass
class Job:
    """Examples of one request, which ask for the same thing (``key``) and stay together."""

    key: Hashable
    examples: Sequence[Any]
    answer: Future[list[Any]] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """A queue in front of ``work``, which runs in one thread.

    A batch begins with the job that waited longest. Jobs of the same key join it until it has ``max_batch`` examples,
    or the first has waited for ``max_wait`` seconds. A batch that fails is tried job by job, so that a bad one costs
    the others nothing.

    Args:
        work: Answers examples of one key: ``work(key, examples)`` returns one answer for each.
        max_batch: Examples of a batch; a larger job is a batch of its own.
        max_wait: Seconds.
        max_queue: Examples that wait at most.
    """

    def __init__(
        self, work: Callable[[Any, list[Any]], list[Any]], *, max_batch: int, max_wait: float, max_queue: int
    ) -> None:
        self._work, self.max_batch, self.max_wait, self.max_queue = work, max_batch, max_wait, max_queue
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self.batches = 0
        self._thread = threading.Thread(target=self._run, name="promptfed-serving", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Return how many examples wait."""
        with self._changed:
            return sum(len(job.examples) for job in self._jobs)

    def submit(self, key: Hashable, examples: Sequence[Any]) -> Future[list[Any]]:
        """Put ``examples`` into the queue and return what will be their answers.

        Raises:
            QueueFullError: There is no room, or the queue is closed.
        """
        job = Job(key, examples)
        with self._changed:
            if self._is_closed:
                raise QueueFullError("the server is shutting down")
            waiting = sum(len(each.examples) for each in self._jobs)
            if waiting and waiting + len(examples) > self.max_queue:
                raise QueueFullError(f"{waiting} examples wait already: try again in a moment")
            self._jobs.append(job)
            self._changed.notify()
        return job.answer

    def close(self, patience: float = 10.0) -> None:
        """Answer what waits, take nothing new, and end the thread; wait for ``patience`` seconds at most."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(patience)

    def _run(self) -> None:
        while batch := self._next():
            self.batches += 1
            self._answer(batch)

    def _next(self) -> list[Job]:
        """Return the jobs of the next batch; empty: the queue is closed and used up."""
        with self._changed:
            while not self._jobs:
                if self._is_closed:
                    return []
                self._changed.wait()
            batch = [self._jobs.popleft()]
            end = batch[0].arrived + self.max_wait
            while True:
                size = self._join(batch)
                left = end - time.monotonic()
                if size >= self.max_batch or left <= 0 or self._is_closed:
                    return batch
                self._changed.wait(left)

    def _join(self, batch: list[Job]) -> int:
        """Move waiting jobs that fit into ``batch``; return how many examples it has then."""
        size = sum(len(job.examples) for job in batch)
        rest: deque[Job] = deque()
        for job in self._jobs:
            if job.key == batch[0].key and size + len(job.examples) <= self.max_batch:
                batch.append(job)
                size += len(job.examples)
            else:
                rest.append(job)
        self._jobs = rest
        return size

    def _answer(self, batch: list[Job]) -> None:
        jobs = [job for job in batch if job.answer.set_running_or_notify_cancel()]
        try:
            answers = iter(self._work(batch[0].key, [example for job in jobs for example in job.examples]))
            done = [[next(answers) for _ in job.examples] for job in jobs]
        except Exception as error:  # whatever the model raises is the answer
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
                return
            for job in jobs:
                self._answer_alone(job)
            return
        for job, answer in zip(jobs, done, strict=True):
            job.answer.set_result(answer)

    def _answer_alone(self, job: Job) -> None:
        try:
            job.answer.set_result(self._work(job.key, list(job.examples)))
        except Exception as error:
            job.answer.set_exception(error)
