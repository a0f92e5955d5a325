"""The server of secure sums over sites: five legs of questions after the sites have trained."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from promptfed.deployment import codec
from promptfed.deployment.messages import SiteAgreement
from promptfed.deployment.site_pool import SitePool, SiteReply
from promptfed.deployment.sum_words import Leg, Sum, SumAnswer, SumMessage, answer_of, name_of_run
from promptfed.errors import DeploymentError, SecureSumError
from promptfed.privacy.masks import WORD_BYTES
from promptfed.privacy.noise_shares import shares_of
from promptfed.privacy.release import SecretSums, Total
from promptfed.privacy.secure_sum import Summation
from promptfed.privacy.simulated_sums import check_asked
from promptfed.privacy.sum_messages import Message
from promptfed.privacy.sum_terms import SumTerms, default_threshold
from promptfed.privacy_options import PrivacyOptions
from promptfed.prompt_state import PromptState

LEG_SECONDS = 600.0
"""The limit for one site in one leg, its start included, in a run without a limit for clients."""
SPARE_BYTES = 1_000
"""An array may have so many bytes besides its masked words."""


class SecureSums(SecretSums):
    """Gather the sum of a round's changes, which the sites hold.

    A site that does not answer in a leg, or whose answer is refused, is lost. It costs no more than its part as long as
    more than two thirds of the sites that were asked to train are left.

    Attributes:
        sites: The sites.
        agreement: What all sites agreed on, their identities among it.
        stage: The method.
        bound: The largest L2 norm of a change, to which the sites clip it.
        shares: The noise that each site adds.
        seconds: The limit for one site in one leg.
    """

    def __init__(
        self, sites: SitePool, agreement: SiteAgreement, stage: str, terms: PrivacyOptions, seconds: float | None = None
    ) -> None:
        super().__init__()
        self.sites, self.agreement, self.stage = sites, agreement, stage
        self.bound, self.shares = terms.clip_norm, shares_of(terms, len(agreement.sites))
        self.seconds = seconds or LEG_SECONDS

    def __call__(self, changes: Mapping[int, Tensor], asked: Sequence[int], shared: PromptState, round: int) -> Total:
        """Return the sum over the sites that stayed to the end of the leg of masked words.

        Args:
            changes: Client -> as many values as its change has, for those that have trained.
            asked: The clients that were asked to train.
            shared: What all of them were sent.
            round: The round.

        Raises:
            SecureSumError: Fewer are left than the sum needs.
        """
        check_asked(len(asked))
        terms = SumTerms(
            run=name_of_run(self.agreement, self.stage),
            round=round,
            attempt=1,
            broadcast=hashlib.sha256(shared.to_bytes()).digest(),
            cohort=tuple(sorted(asked)),
            threshold=default_threshold(len(asked)),
            size=len(next(iter(changes.values()))),
            bound=self.bound,
            noise=self.shares.multiplier,
            honest=self.shares.honest,
        )
        identities = {client: bytes.fromhex(self.agreement.identities[client]) for client in terms.cohort}
        legs = _Legs(self, Summation(terms, identities))
        try:
            present = legs.ask("keys", dict.fromkeys(changes))
            present = legs.ask("shares", dict.fromkeys(present, legs.server.all_keys()))
            present = legs.ask("masked", legs.server.forwarded())
            present = legs.ask("consent", dict.fromkeys(present, legs.server.survivors()))
            legs.ask("unmask", dict.fromkeys(present, legs.server.consents()))
            result = legs.server.result()
        finally:
            self.count(legs.up, legs.down)
        self.sites.say(
            f"secure sum of round {round} over {len(result.clients)} of {len(asked)} sites: "
            f"{max(legs.up.values()):,} bytes up and {max(legs.down.values()):,} down at most for one site"
        )
        return Total(torch.from_numpy(result.values), len(result.clients))


class _Legs:
    """The questions of one sum, and the bytes that they cost each client."""

    def __init__(self, sums: SecureSums, server: Summation) -> None:
        self.sums, self.server = sums, server
        self.up, self.down = Counter[int](), Counter[int]()

    def ask(self, leg: Leg, given: Mapping[int, Message | None]) -> list[int]:
        """Ask clients for their part in ``leg``, with what each is ``given``; return those whose answers count."""
        terms, sites = self.server.terms, self.sums.sites
        questions = {
            client: codec.pack(
                Sum.create(
                    run=self.sums.agreement.run,
                    stage=self.sums.stage,
                    client=client,
                    round=terms.round,
                    leg=leg,
                    cohort=terms.cohort,
                    message=None if message is None else SumMessage.of(message),
                )
            )
            for client, message in given.items()
        }
        answers = sites.ask(questions, group=f"{terms.round} {leg}", each=self.sums.seconds)
        return [client for client, answer in sorted(answers.items()) if self._counts(leg, client, answer)]

    def _counts(self, leg: Leg, client: int, answer: SiteReply) -> bool:
        """Hand an answer on. One that is refused loses its site."""
        self.up[client] += answer.bytes_up
        self.down[client] += answer.bytes_down
        terms = self.server.terms
        try:
            if answer.content is None:
                raise DeploymentError(answer.failure)
            most = WORD_BYTES * terms.words + SPARE_BYTES if leg == "masked" else 0
            envelope = codec.unpack(answer.content, SumAnswer, most)
            self.server.add(client, answer_of(envelope, client, terms.round))
        except (DeploymentError, SecureSumError) as error:
            name = self.sums.agreement.sites[client].name
            self.sums.sites.say(f"{name} is lost in the leg of '{leg}' of round {terms.round}: {error}")
            return False
        return True
