"""The Ray engine: actors on this machine or a cluster do the work of clients, each with one frozen backbone."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch

from promptfed import errors
from promptfed.config import RunConfig
from promptfed.engines import ray_runtime
from promptfed.engines.base import LATE, Engine, OnReply, ShouldStop, Workplace, never
from promptfed.engines.ray_actor import ActorJob, ActorReply, ClientActor, Refusal, packed, unpacked
from promptfed.engines.registry import ENGINES
from promptfed.errors import ConfigError, PromptFedError, RunError
from promptfed.named_model import named_model
from promptfed.printable import printable
from promptfed.privacy.dpsgd import ExampleTerms
from promptfed.types import Job, Reply, failed

LOG = logging.getLogger(__name__)
POLL_SECONDS = 0.25
ATTEMPTS = 3
"""How often the work of a client starts if its actor dies, and how many actors in a row may die while they load."""
GRACE_SECONDS = 15.0
"""Seconds that an actor may still work after the round closes; then it is replaced."""
PATIENCE_SECONDS = 60.0
"""Seconds without a ready actor after which the log says what the engine waits for."""


@dataclass(frozen=True)
class WorkItem:
    """Clients whose work one actor does together.

    Attributes:
        jobs: The jobs of these clients.
        begun: How many actors died of this work.
    """

    jobs: tuple[Job, ...]
    begun: int = 0

    def singly(self) -> list[WorkItem]:
        return [WorkItem((job,), self.begun) for job in self.jobs]


@dataclass(eq=False)
class ActorSlot:
    """An actor and its present work. An actor with neither ``loads`` nor ``task`` may still finish a late task.

    Attributes:
        actor: Ray's handle of the actor.
        awaits: Ray's reference to the result of its present call.
        loads: The stage that it loads.
        task: The clients' work that it does.
        until: When it must have finished, on the monotonic clock in seconds.
        ready_for: The stages that it has loaded.
        pid: Its process id.
    """

    actor: Any
    awaits: Any = None
    loads: str | None = None
    task: WorkItem | None = None
    until: float | None = None
    ready_for: set[str] = field(default_factory=set)
    pid: int = 0

    def rest(self) -> None:
        self.awaits, self.loads, self.task, self.until = None, None, None, None


@ENGINES.register("ray")
class RayEngine(Engine):
    """Clients in processes of Ray, on this machine or a cluster.

    Only a free actor receives work: nothing waits in Ray's queues. The engine replaces an actor that dies and repeats
    the work of its clients. It kills an actor that exceeds ``client_seconds``, and the client loses its update. Prompts
    do not depend on any of this: every random draw is named by round and client.
    """

    builds_from_config = True
    protects_examples = True

    @classmethod
    def check(cls, config: RunConfig) -> None:
        named_model(config).check_processes("--engine ray")
        if config.device.startswith("cuda:"):
            raise ConfigError(
                f"--device '{printable(config.device, 50)}' does not go with --engine ray, which deals out the GPUs "
                "itself: use --device cuda, and CUDA_VISIBLE_DEVICES to keep some of them from it"
            )
        ray_runtime.require_ray()

    @classmethod
    def for_run(cls, build: Callable[[], Workplace], config: RunConfig) -> Self:
        return cls(
            build,
            actors=config.actors,
            address=config.ray_address,
            client_batch=config.clients_at_once,
            client_seconds=config.client_seconds,
            on_gpu=None if config.device == "auto" else config.device == "cuda",
        )

    def __init__(
        self,
        make: Callable[[], Workplace],
        *,
        actors: int | None = None,
        threads: int | None = None,
        address: str | None = None,
        client_batch: int = 1,
        client_seconds: float | None = None,
        on_gpu: bool | None = False,
    ) -> None:
        """Connect to Ray, or start it. Actors start when there is work for them.

        Args:
            make: Builds the workplace of an actor.
            actors: The number of processes, by default as many as ``Share.of`` has room for.
            threads: Torch threads of an actor, by default those of this process: another number rounds differently.
            address: The Ray cluster, "auto" or HOST:PORT; None starts Ray on this machine.
            client_batch: The number of clients whose work an actor does together.
            client_seconds: The limit for one client, in seconds; None sets no limit.
            on_gpu: Whether the model runs on a GPU; None: wherever Ray knows of one.

        Raises:
            ConfigError: Ray is not installed, there is no cluster at ``address``, or it has no GPU.
        """
        self._began_ray = ray_runtime.begin(address)
        import ray

        self._ray, self._make = ray, ray.put(make)  # once, for however many actors
        self.client_batch, self.client_seconds = client_batch, client_seconds
        self.threads = threads or torch.get_num_threads()
        nodes = ray_runtime.nodes()
        on_gpu = any(gpus for _, gpus in nodes) if on_gpu is None else on_gpu
        self.share = ray_runtime.Share.of(nodes, actors, self.threads, on_gpu)
        self.seats: list[ActorSlot] = []
        self._protected: dict[str, ExampleTerms] = {}
        self._deaths_while_loading = 0

    def run_round(
        self,
        jobs: Sequence[Job],
        on_reply: OnReply | None = None,
        should_stop: ShouldStop = never,
        seconds: float | None = None,
    ) -> list[Reply]:
        """Run the jobs on the actors, in order of clients.

        The clock of ``seconds`` starts with the work of the first client, not with the loading of models. A client that
        is still at work when it ends is late. A stop waits for the clients that are at work.
        """
        ordered = sorted(jobs, key=lambda job: job.client)
        batches = range(0, len(ordered), self.client_batch)
        waiting = deque(WorkItem(tuple(ordered[start : start + self.client_batch])) for start in batches)
        shared_refs: dict[int, Any] = {}  # each prompt goes to Ray once, for however many clients
        replies: list[Reply] = []
        deadline, last_start = None, time.monotonic()

        def report(arrivals: Sequence[Reply]) -> None:
            for reply in arrivals:
                replies.append(reply)
                if on_reply is not None:
                    on_reply(reply)

        try:
            while waiting or self._working():
                if should_stop():
                    waiting.clear()
                now = time.monotonic()
                if deadline is not None and now > deadline:
                    report([failed(job, LATE) for task in self._close(waiting) for job in task.jobs])
                self._fill_seats(len(waiting) + len(self._working()))
                for seat in self.seats:
                    if seat.awaits is None and waiting and self._hand(seat, waiting, shared_refs):
                        if deadline is None and seconds is not None:
                            deadline = now + seconds
                        last_start = now
                if waiting and now - last_start > PATIENCE_SECONDS and not self._working():
                    LOG.warning("%s", self._wait_words())
                    last_start = now
                for seat in self._news(deadline):
                    self._take(seat, waiting, report)
                self._end_overdue(waiting, report)
        except BaseException:
            for seat in self._working():  # nobody needs their results any more
                self._dismiss(seat)
            raise
        return sorted(replies, key=lambda reply: reply.client)

    def protect(self, terms: ExampleTerms) -> None:
        """Have actors train the stage of ``terms`` with noise. Each reads the key in the run's folder."""
        self._protected[terms.stage] = terms
        for seat in self.seats:
            seat.ready_for.discard(terms.stage)

    def verify_frozen(self) -> None:
        results = [seat.actor.verify_frozen.remote() for seat in self.seats if seat.awaits is None]
        for result in self._ray.get(results):
            _heed(result)

    def close(self) -> None:
        for seat in list(self.seats):
            self._dismiss(seat)
        if self._began_ray:
            self._ray.shutdown()
            self._began_ray = False

    def _wait_words(self) -> str:
        """Say what the engine waits for while no actor is ready."""
        free, total = ray_runtime.free_cpus(), sum(cpus for cpus, _ in ray_runtime.nodes())
        return (
            f"waiting for {len(self.seats)} Ray actors of {self.share.cpus} CPUs each; Ray has {free:g} of {total} "
            "CPUs free. They load the model, or other programs on this Ray hold its CPUs and have to end first"
        )

    # ------------------------------------------------------------------------------------------------- seats

    def _working(self) -> list[ActorSlot]:
        return [seat for seat in self.seats if seat.task is not None]

    def _fill_seats(self, needed: int) -> None:
        """Start as many actors as there is work for, up to the limit."""
        share = self.share
        for _ in range(min(needed, share.actors) - len(self.seats)):
            kind = self._ray.remote(ClientActor).options(
                num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=0, scheduling_strategy="SPREAD"
            )
            environment = {k: v for k, v in os.environ.items() if k.startswith("PROMPTFED_") or k == "HF_HUB_OFFLINE"}
            self.seats.append(ActorSlot(kind.remote(self._make, self.threads, environment)))

    def _dismiss(self, seat: ActorSlot) -> None:
        self._ray.kill(seat.actor, no_restart=True)
        self.seats.remove(seat)

    # -------------------------------------------------------------------------------------------------- work

    def _hand(self, seat: ActorSlot, waiting: deque[WorkItem], shared_refs: dict[int, Any]) -> bool:
        """Give a free actor the next task, or have it load the stage first. Return whether the work has started."""
        jobs, now = waiting[0].jobs, time.monotonic()
        stage = jobs[0].stage
        if stage not in seat.ready_for:
            seat.loads, seat.awaits = stage, seat.actor.prepare.remote(stage, self._protected.get(stage))
            return False
        seat.task = waiting.popleft()
        parcels = [ActorJob(job.client, job.broadcast.round, job.stage, packed(job.personal)) for job in jobs]
        for job in jobs:
            if id(job.broadcast.shared) not in shared_refs:
                shared_refs[id(job.broadcast.shared)] = self._ray.put(packed(job.broadcast.shared))
        seat.awaits = seat.actor.work.remote(parcels, *(shared_refs[id(job.broadcast.shared)] for job in jobs))
        seat.until = None if self.client_seconds is None else now + self.client_seconds * len(jobs)
        return True

    def _news(self, deadline: float | None) -> list[ActorSlot]:
        """Wait for results, for a quarter of a second at most, and return the seats that have one."""
        ends = [seat.until for seat in self.seats if seat.until is not None] + ([] if deadline is None else [deadline])
        wait = min([POLL_SECONDS, *(max(0.0, end - time.monotonic()) for end in ends)])
        awaited = {seat.awaits: seat for seat in self.seats if seat.awaits is not None}
        if not awaited:
            return []
        ready, _ = self._ray.wait(list(awaited), num_returns=1, timeout=wait)
        if ready:  # and who else is ready by now
            ready, _ = self._ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        return [awaited[ref] for ref in ready]

    def _take(self, seat: ActorSlot, waiting: deque[WorkItem], report: Callable[[Sequence[Reply]], None]) -> None:
        """Take the result of ``seat``, or replace its actor if that is dead."""
        task, loaded = seat.task, seat.loads
        try:
            result = self._ray.get(seat.awaits)
        except self._ray.exceptions.RayActorError as death:
            self.seats.remove(seat)
            self._bury(seat, death, waiting, report)
            return
        except self._ray.exceptions.RayTaskError as error:
            kind, message = type(error.cause).__name__, " ".join(str(error.cause).split())
            if task is None:
                raise RunError(f"a Ray actor cannot load what it needs: {kind}: {message}") from error
            seat.rest()
            report([failed(job, f"error: {kind}: {message}") for job in task.jobs])
            return
        seat.rest()
        if task is not None:
            _heed(result)
            report([_reply(answer) for answer in result])
        elif loaded is not None:
            _heed(result)
            self._deaths_while_loading = 0
            seat.ready_for.add(loaded)
            seat.pid = result
        # else the result came too late

    def _bury(
        self, seat: ActorSlot, death: Exception, waiting: deque[WorkItem], report: Callable[[Sequence[Reply]], None]
    ) -> None:
        """Put the task of a dead actor back in the queue. It fails after too many attempts."""
        task = seat.task
        message = " ".join(str(death).split())[:300]
        LOG.warning("a Ray actor died: %s", message)
        if task is None:
            self._deaths_while_loading += seat.loads is not None
            if self._deaths_while_loading >= ATTEMPTS:
                raise RunError(
                    f"{ATTEMPTS} Ray actors died while they loaded the model ({message}): is there memory for "
                    f"{self.share.actors} of them? --actors sets their number"
                )
        elif task.begun + 1 < ATTEMPTS:
            again = replace(task, begun=task.begun + 1)
            waiting.extendleft(reversed(again.singly()))
        else:
            report([failed(job, f"error: {ATTEMPTS} actors died of its work") for job in task.jobs])

    def _end_overdue(self, waiting: deque[WorkItem], report: Callable[[Sequence[Reply]], None]) -> None:
        """Kill the actors whose time is up. Clients that were trained together are tried again one by one."""
        now = time.monotonic()
        for seat in [seat for seat in self.seats if seat.until is not None and now > seat.until]:
            task = seat.task
            self._dismiss(seat)
            if task is None:
                continue
            if len(task.jobs) > 1:
                waiting.extendleft(reversed(task.singly()))
                continue
            LOG.warning("client %d was stopped, its limit is %g s", task.jobs[0].client, self.client_seconds)
            report([failed(task.jobs[0], LATE, self.client_seconds or 0.0)])

    def _close(self, waiting: deque[WorkItem]) -> list[WorkItem]:
        """Close the round and return the tasks that are late.

        Actors at work finish their task in vain, or are replaced.
        """
        late = list(waiting)
        waiting.clear()
        for seat in self._working():
            assert seat.task is not None
            late.append(seat.task)
            seat.task = None
            seat.until = time.monotonic() + GRACE_SECONDS
        return late


def _reply(answer: ActorReply) -> Reply:
    reply = answer.reply
    return replace(
        reply, update=replace(reply.update, shared=unpacked(answer.shared)), personal=unpacked(answer.personal)
    )


def _heed(result: object) -> None:
    """Raise the error that an actor reports, if it does."""
    if isinstance(result, Refusal):
        kind = getattr(errors, result.kind, PromptFedError)
        raise kind(result.said)
