"""Clients at real sites: jobs and replies as messages over Flower, which is used for transport alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from promptfed.deployment import codec
from promptfed.deployment.messages import SiteAgreement, Train, TrainAnswer
from promptfed.deployment.site_pool import SitePool, SiteReply
from promptfed.engines.base import Engine, OnReply, ShouldStop, never
from promptfed.errors import DeploymentError
from promptfed.processors.client_state import PREFIX
from promptfed.prompt_state import PromptState
from promptfed.runs.personal_store import PERSONAL_VERSION
from promptfed.types import NO_PROMPT, Job, Reply, Update, failed
from promptfed.usage import Usage

if TYPE_CHECKING:
    from flwr.app import RecordDict

BARE_VERSION = f"{PREFIX}{PERSONAL_VERSION}"
"""In the place of ``PERSONAL_VERSION`` where the site keeps no prompt, only what outgoing processors keep."""


class FlowerEngine(Engine):
    """Asks ``sites`` to do the work. A round needs ``min_sites`` of them, who are waited for ``wait_seconds``.

    ``client_seconds``: a site that takes longer, its start included, is late.

    A job's personal prompt is a ticket, or what everybody starts from: the true one stays with its owner. A site that
    goes away is asked again when it is back; what it costs is time, and its update only if it stays away.
    """

    def __init__(
        self,
        sites: SitePool,
        agreement: SiteAgreement,
        *,
        min_sites: int = 1,
        wait_seconds: float = 600.0,
        client_seconds: float | None = None,
    ) -> None:
        self.sites, self.agreement = sites, agreement
        self.min_sites, self.wait_seconds, self.client_seconds = min_sites, wait_seconds, client_seconds

    def run_round(
        self,
        jobs: Sequence[Job],
        on_reply: OnReply | None = None,
        should_stop: ShouldStop = never,
        seconds: float | None = None,
    ) -> list[Reply]:
        """Raises DeploymentError if too few sites are here to begin."""
        if not jobs:
            return []
        self.sites.wait_for(min(self.min_sites, len(jobs)), self.wait_seconds)
        by_client = {job.client: job for job in jobs}
        replies: list[Reply] = []

        def heard(reply: Reply) -> None:
            replies.append(reply)
            if on_reply is not None:
                on_reply(reply)

        self.sites.ask(
            {client: self._question(by_client[client]) for client in sorted(by_client)},
            group=str(jobs[0].broadcast.round),
            seconds=seconds,
            each=self.client_seconds,
            on_answer=lambda client, answer: heard(reply_of(by_client[client], answer)),
            should_stop=should_stop,
        )
        return sorted(replies, key=lambda reply: reply.client)

    def _question(self, job: Job) -> RecordDict:
        words = Train.create(
            agreement=self.agreement,
            stage=job.stage,
            client=job.client,
            round=job.broadcast.round,
            start=start_of(job.personal),
        )
        return codec.pack(words, shared=job.broadcast.shared)


def start_of(personal: PromptState) -> int:
    """The round that a ticket names; 0, the initial prompt, for all else."""
    return next((int(personal[name]) for name in (PERSONAL_VERSION, BARE_VERSION) if name in personal), 0)


def reply_of(job: Job, answer: SiteReply) -> Reply:
    """The reply that an answer means; whatever is wrong with it costs this client's update and no more."""
    crossed: dict[str, Any] = {"bytes_up": answer.bytes_up, "bytes_down": answer.bytes_down}
    if answer.content is None:
        return _refused(job, answer.failure, crossed)
    try:
        parcel = codec.unpack(answer.content, TrainAnswer)
        words, shared = parcel.words, parcel.part("shared")
        if (words.client, words.round) != (job.client, job.broadcast.round):
            raise DeploymentError(f"it is client {words.client}'s of round {words.round}")
        if words.kept not in (0, job.broadcast.round):
            raise DeploymentError(f"it kept a personal prompt of round {words.kept}")
    except DeploymentError as error:
        return _refused(job, f"error: client {job.client}: {error}", crossed)
    return Reply(
        client=job.client,
        round=job.broadcast.round,
        update=Update(job.client, shared, words.samples, _number(words.loss), _number(words.accuracy)),
        personal=_kept_version(words),
        seconds=words.seconds,
        usage=Usage(**words.usage.model_dump()),
        failure=words.failure,
        start_seconds=parcel.started,
        processor_figures=words.figures,
        **crossed,
    )


def _kept_version(words: TrainAnswer) -> PromptState:
    """Return what stands at the server for what the site keeps."""
    name = BARE_VERSION if words.is_bare else PERSONAL_VERSION
    return PromptState({name: torch.tensor(words.kept)}) if words.kept else NO_PROMPT


def _number(value: float | None) -> float:
    """NaN for what nobody knows."""
    return float("nan") if value is None else value


def _refused(job: Job, why: str, crossed: dict[str, Any]) -> Reply:
    return replace(failed(job, why), **crossed)
