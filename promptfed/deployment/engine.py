"""The Flower engine: jobs and replies travel to real sites as messages. Flower is the transport alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from promptfed.deployment import codec
from promptfed.deployment.messages import SiteAgreement, Train, TrainAnswer
from promptfed.deployment.secure_sums import SecureSums
from promptfed.deployment.site_pool import SitePool, SiteReply
from promptfed.engines.base import Engine, OnReply, ShouldStop, never
from promptfed.errors import DeploymentError
from promptfed.privacy_options import PrivacyOptions
from promptfed.processors.client_state import PREFIX
from promptfed.prompt_state import PromptState
from promptfed.runs.personal_store import PERSONAL_VERSION
from promptfed.types import NO_PROMPT, Job, Reply, Update, failed
from promptfed.usage import Usage

if TYPE_CHECKING:
    from flwr.app import RecordDict

BARE_VERSION = f"{PREFIX}{PERSONAL_VERSION}"
"""The name in place of ``PERSONAL_VERSION`` if the site stores no prompt, only the state of outgoing processors."""


class FlowerEngine(Engine):
    """Have sites do the work of clients.

    The personal prompt of a job is the initial one or a ticket: the true prompt stays at its site. A site that
    disconnects is asked again when it is back. It loses its update only if it stays away. Sites with identities keep
    their changes, and sum them in secret.

    Attributes:
        sites: The sites.
        agreement: What all sites agreed on.
        min_sites: The number of sites that a round needs.
        wait_seconds: Seconds to wait for that number.
        client_seconds: The limit for one site, in seconds, its start included; None sets no limit.
    """

    simulates = False

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
        if agreement.identities:
            terms = PrivacyOptions.model_validate(agreement.config["privacy_options"])
            self.sums = SecureSums(sites, agreement, agreement.config["method"], terms, client_seconds)

    def run_round(
        self,
        jobs: Sequence[Job],
        on_reply: OnReply | None = None,
        should_stop: ShouldStop = never,
        seconds: float | None = None,
    ) -> list[Reply]:
        """Run the jobs at the sites. Raise DeploymentError if too few of them are connected."""
        if not jobs:
            return []
        self.sites.wait_for(min(self.min_sites, len(jobs)), self.wait_seconds)
        by_client = {job.client: job for job in jobs}
        replies: list[Reply] = []

        def report(reply: Reply) -> None:
            replies.append(reply)
            if on_reply is not None:
                on_reply(reply)

        self.sites.ask(
            {client: self._question(by_client[client]) for client in sorted(by_client)},
            group=str(jobs[0].broadcast.round),
            seconds=seconds,
            each=self.client_seconds,
            on_answer=lambda client, answer: report(reply_of(by_client[client], answer)),
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
    """Return the round that a ticket names; 0, for the initial prompt, if it is no ticket."""
    return next((int(personal[name]) for name in (PERSONAL_VERSION, BARE_VERSION) if name in personal), 0)


def reply_of(job: Job, answer: SiteReply) -> Reply:
    """Decode the answer of a site. An error in it costs this client its update, and no other."""
    traffic: dict[str, Any] = {"bytes_up": answer.bytes_up, "bytes_down": answer.bytes_down}
    if answer.content is None:
        return _failed(job, answer.failure, traffic)
    try:
        envelope = codec.unpack(answer.content, TrainAnswer, job.most_bytes)
        words, shared = envelope.words, envelope.part("shared")
        if (words.client, words.round) != (job.client, job.broadcast.round):
            raise DeploymentError(f"it is client {words.client}'s of round {words.round}")
        if words.kept not in (0, job.broadcast.round):
            raise DeploymentError(f"it kept a personal prompt of round {words.kept}")
    except DeploymentError as error:
        return _failed(job, f"error: client {job.client}: {error}", traffic)
    return Reply(
        client=job.client,
        round=job.broadcast.round,
        update=Update(job.client, shared, words.samples, _number(words.loss), _number(words.accuracy)),
        personal=_ticket(words),
        seconds=words.seconds,
        usage=Usage(**words.usage.model_dump()),
        failure=words.failure,
        start_seconds=envelope.started,
        processor_figures=words.figures,
        epsilon=words.epsilon,
        **traffic,
    )


def _ticket(words: TrainAnswer) -> PromptState:
    """Return the ticket for what the site stores."""
    name = BARE_VERSION if words.is_bare else PERSONAL_VERSION
    return PromptState({name: torch.tensor(words.kept)}) if words.kept else NO_PROMPT


def _number(value: float | None) -> float:
    """Return ``value``; NaN if it is unknown."""
    return float("nan") if value is None else value


def _failed(job: Job, why: str, traffic: dict[str, Any]) -> Reply:
    return replace(failed(job, why), **traffic)
