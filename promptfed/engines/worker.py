"""The work of clients: what an engine runs for its jobs, in whatever process."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from promptfed.engines.base import Malicious, Worker
from promptfed.errors import BudgetExhausted, ConfigError, OracleError, PromptFedError
from promptfed.method import Method, TrainingJob
from promptfed.privacy.dpsgd import DPSGD
from promptfed.privacy.example_check import check_example_dp
from promptfed.processors.client_state import joined, states_of, trained_of
from promptfed.processors.pipeline import NO_PROCESSORS, Pipeline
from promptfed.prompt_state import PromptState
from promptfed.seeding import numpy_stream
from promptfed.stderr_log import TOLD
from promptfed.types import ClientData, FederatedTask, Job, Reply, Update, failed

LOG = logging.getLogger(__name__)
DROPPED = "dropped out"


def run_isolated(worker: Worker, jobs: Sequence[Job]) -> list[Reply]:
    """Run ``worker(jobs)``, where an error costs only the client that causes it its update.

    This holds for unexpected errors too, which the log shows in full: a federation survives a fault in the data of one
    client.

    Args:
        worker: Does the work.
        jobs: The jobs of some clients.

    Returns:
        One reply for each job, in the order of the jobs.

    Raises:
        BudgetExhausted: The oracle's budget is spent, which is no client's fault.
        OracleError: The oracle does not answer, which is no client's fault.
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
    """Train clients of ``task`` with ``method``, and measure the time and the encoder calls of each.

    A client that raises a PromptFedError (its loss is not finite, its image cannot be read) fails alone.

    Attributes:
        method: The method that trains.
        dropout: The share of jobs, 0..1, that are lost to simulate unreliable clients. The stream (seed, "dropout",
            round, client) decides, so a repeated run loses the same jobs.
        processors: What acts on each update before it is sent. Their state is a part of the personal prompt that the
            method does not see.
        malicious: Clients of a simulation that attack it. They leave out the processors that a server cannot check.
        private_training: Trains in the method's place, with noise for each example; None: the method trains.
        needs_noise: Whether it does not train without ``private_training``.

    Raises:
        ConfigError: The method cannot be trained so.
    """

    def __init__(
        self,
        method: Method,
        task: FederatedTask,
        dropout: float = 0.0,
        processors: Pipeline = NO_PROCESSORS,
        private_training: DPSGD | None = None,
        malicious: Malicious | None = None,
        needs_noise: bool = False,
    ) -> None:
        self.method, self.dropout, self.processors = method, dropout, processors
        self.private_training, self.malicious, self.needs_noise = private_training, malicious, needs_noise
        self._task = task
        if private_training is not None:
            check_example_dp(method)

    def __call__(self, jobs: Sequence[Job]) -> list[Reply]:
        """Train the clients of ``jobs`` side by side and return one reply for each, in the order of the jobs.

        Time and calls are split evenly among clients that are trained together.
        """
        present = [job for job in jobs if not self._drops_out(job)]
        usage_before, start_time = self.method.setup.usage(), time.perf_counter()
        try:
            results = self._trained([(j.broadcast, self._data(j), trained_of(j.personal)) for j in present])
        except (BudgetExhausted, OracleError):  # no client's fault, and it would meet all others too
            raise
        except PromptFedError as error:
            if len(present) > 1:  # find out whose fault it was
                return [self([job])[0] for job in jobs]
            job = present[0]
            LOG.warning("client %d failed in round %d: %s", job.client, job.broadcast.round, error, extra=TOLD)
            seconds = time.perf_counter() - start_time
            return [failed(job, f"error: {error}" if job in present else DROPPED, seconds) for job in jobs]
        share = max(1, len(present))
        seconds = (time.perf_counter() - start_time) / share
        usage = (self.method.setup.usage() - usage_before).divided(share)
        trained = [
            Reply(
                client=job.client,
                round=job.broadcast.round,
                update=update,
                personal=personal,
                seconds=seconds,
                usage=usage,
            )
            for job, (update, personal) in zip(present, results, strict=True)
        ]
        if self.malicious is not None:
            trained = self.malicious.replies(present, trained)
        replies = {job.client: self._processed(job, reply) for job, reply in zip(present, trained, strict=True)}
        return [replies.get(job.client) or failed(job, DROPPED) for job in jobs]

    def _trained(self, jobs: Sequence[TrainingJob]) -> list[tuple[Update, PromptState]]:
        """Return what the clients of ``jobs`` send and keep."""
        if self.needs_noise and self.private_training is None:
            raise ConfigError("privacy.dp=example trains inside its run alone, whose folder has the secret key")
        if self.private_training is None:
            return self.method.train_many(jobs)
        return self.private_training.train_many(check_example_dp(self.method), jobs)

    def _data(self, job: Job) -> ClientData:
        """Return what the client of ``job`` trains on."""
        data = self._task.client(job.client)
        return data if self.malicious is None else self.malicious.data(data, job.broadcast.round)

    def _processed(self, job: Job, reply: Reply) -> Reply:
        """Return ``reply`` as it leaves the client, with its update and the state of the processors."""
        processors = self.processors
        if self.malicious is not None and job.client in self.malicious.clients:
            processors = processors.formats
        if not processors:
            return reply
        start_time = time.perf_counter()
        try:
            sending = processors.outgoing(reply.update, job.broadcast, states_of(job.personal))
        except PromptFedError as error:
            LOG.warning("client %d failed in round %d: %s", job.client, job.broadcast.round, error, extra=TOLD)
            return failed(job, f"error: {error}", reply.seconds + time.perf_counter() - start_time)
        return replace(
            reply,
            update=sending.update,
            personal=joined(reply.personal, sending.states),
            seconds=reply.seconds + time.perf_counter() - start_time,
            processor_figures=sending.figures,
        )

    def _drops_out(self, job: Job) -> bool:
        if not self.dropout:
            return False
        stream = numpy_stream(self.method.setup.seed, "dropout", job.broadcast.round, job.client)
        return bool(stream.random() < self.dropout)
