"""Clients' work: what an engine runs for jobs, in whatever process."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from promptfed.engines.base import Worker
from promptfed.errors import BudgetExhausted, OracleError, PromptFedError
from promptfed.method import Method
from promptfed.processors.client_state import joined, prompt_of, states_of
from promptfed.processors.pipeline import NO_PROCESSORS, Pipeline
from promptfed.seeding import numpy_stream
from promptfed.stderr_log import TOLD
from promptfed.types import FederatedTask, Job, Reply, failed

LOG = logging.getLogger(__name__)
DROPPED = "dropped out"


def run_isolated(worker: Worker, jobs: Sequence[Job]) -> list[Reply]:
    """``worker(jobs)``, where anything that goes wrong costs those clients their update with whom it goes wrong.

    Also what nobody foresaw, which is told in full in the log: a federation outlives a fault in one client's data.
    Raises BudgetExhausted and OracleError, which are no client's fault.
    """
    try:
        replies = worker(jobs)
        if [reply.client for reply in replies] != [job.client for job in jobs]:
            raise ValueError(f"replies came from clients {[reply.client for reply in replies]}")
        return replies
    except (BudgetExhausted, OracleError):
        raise
    except Exception as error:
        if len(jobs) > 1:  # find out whose fault it was
            return [run_isolated(worker, [job])[0] for job in jobs]
        LOG.exception("client %d failed in round %d", jobs[0].client, jobs[0].broadcast.round)
        return [failed(jobs[0], f"error: {type(error).__name__}: {error}")]


class ClientWorker:
    """Trains any clients of ``task`` with ``method``, and counts the time and the encoder calls it took.

    ``dropout`` is the share of jobs that are lost, as a simulation of real clients: drawn from the stream
    (seed, "dropout", round, client), so a run loses the same ones each time. A client that raises a PromptFedError
    (its loss is not finite, its image cannot be read) fails alone.

    ``processors`` act on each update before it is sent. What they keep is a part of the personal prompt that goes in
    and out, and that the method does not see.
    """

    def __init__(
        self, method: Method, task: FederatedTask, dropout: float = 0.0, processors: Pipeline = NO_PROCESSORS
    ) -> None:
        self.method, self.dropout, self.processors = method, dropout, processors
        self._task = task

    def __call__(self, jobs: Sequence[Job]) -> list[Reply]:
        """One reply a job, in the order of the jobs, which are trained side by side. Time and calls of clients that
        were trained together are split evenly."""
        present = [job for job in jobs if not self._drops_out(job)]
        before, began = self.method.setup.usage(), time.perf_counter()
        try:
            results = self.method.train_many(
                [(j.broadcast, self._task.client(j.client), prompt_of(j.personal)) for j in present]
            )
        except (BudgetExhausted, OracleError):  # no client's fault, and it would meet all others too
            raise
        except PromptFedError as error:
            if len(present) > 1:  # find out whose fault it was
                return [self([job])[0] for job in jobs]
            job = present[0]
            LOG.warning("client %d failed in round %d: %s", job.client, job.broadcast.round, error, extra=TOLD)
            seconds = time.perf_counter() - began
            return [failed(job, f"error: {error}" if job in present else DROPPED, seconds) for job in jobs]
        share = max(1, len(present))
        seconds = (time.perf_counter() - began) / share
        usage = (self.method.setup.usage() - before).divided(share)
        done = {
            job.client: self._sent(
                job,
                Reply(
                    client=job.client,
                    round=job.broadcast.round,
                    update=update,
                    personal=personal,
                    seconds=seconds,
                    usage=usage,
                ),
            )
            for job, (update, personal) in zip(present, results, strict=True)
        }
        return [done.get(job.client) or failed(job, DROPPED) for job in jobs]

    def _sent(self, job: Job, reply: Reply) -> Reply:
        """Return ``reply`` as it leaves the client: its update processed, its personal prompt with what that left."""
        if not self.processors:
            return reply
        began = time.perf_counter()
        try:
            sending = self.processors.outgoing(reply.update, job.broadcast, states_of(job.personal))
        except PromptFedError as error:
            LOG.warning("client %d failed in round %d: %s", job.client, job.broadcast.round, error, extra=TOLD)
            return failed(job, f"error: {error}", reply.seconds + time.perf_counter() - began)
        return replace(
            reply,
            update=sending.update,
            personal=joined(reply.personal, sending.states),
            seconds=reply.seconds + time.perf_counter() - began,
            processor_figures=sending.figures,
        )

    def _drops_out(self, job: Job) -> bool:
        if not self.dropout:
            return False
        stream = numpy_stream(self.method.setup.seed, "dropout", job.broadcast.round, job.client)
        return bool(stream.random() < self.dropout)
