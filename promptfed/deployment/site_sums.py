"""A site's part in secure sums: it keeps its change, and each leg may meet a new process.

<state-dir>/<run>/<stage>/sum.json         the state between two legs; after the last leg its answer alone, without
                                           secrets of this site, until the next round or the end of the run
<state-dir>/<run>/<stage>/sum.safetensors  the clipped change, then the masked words; gone after the last leg
<state-dir>/<run>/<stage>/summed           the last round whose values were sent

All of them are readable by the owner only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save

from promptfed.config import RunConfig
from promptfed.deployment.messages import Train
from promptfed.deployment.site_identities import own_identity
from promptfed.deployment.site_store import SiteStore
from promptfed.deployment.sum_words import MASKED, WORDS, Sum, SumAnswer, SumMessage, array_of, name_of_run
from promptfed.errors import ConfigError, FormatError, SecureSumError, TrainingError
from promptfed.files.sealed_json import opened_json, sealed_json
from promptfed.method import METHODS
from promptfed.printable import printable
from promptfed.privacy.noise_shares import shares_of
from promptfed.privacy.release import clipped, flattened
from promptfed.privacy.secure_extra import require_cryptography
from promptfed.privacy.secure_member import Member
from promptfed.privacy.simulated_sums import shortened
from promptfed.privacy.sum_terms import SumTerms, default_threshold
from promptfed.privacy_check import check_ciphertexts
from promptfed.privacy_options import PrivacyOptions
from promptfed.prompt_state import PromptState
from promptfed.readers.files import read_bytes
from promptfed.readers.json_reader import LIMITS
from promptfed.readers.tensors import MOST_BYTES, parse_tensors

CHANGE = "change"
AFTERWARDS = ("consent", "unmask")
"""Legs after the values were sent."""


class SiteSums:
    """The secure sums of one stage at one site.

    A question that comes again, because its answer was lost, is answered with the same bytes. Values are sent once in
    a round, also if the server trains the round again.
    """

    def __init__(self, store: SiteStore, stage: str) -> None:
        METHODS[stage]  # a name that is none must not become a path
        folder = store.folder / stage
        self.store, self.stage = store, stage
        self.state_file, self.values_file = folder / "sum.json", folder / "sum.safetensors"
        self.sent_file = folder / "summed"

    def hold(self, work: Train, shared: PromptState, update: PromptState, terms: PrivacyOptions) -> None:
        """Keep the clipped change of a round, and forget that of the one before.

        Args:
            work: The question that was answered.
            shared: What the site was sent.
            update: What it would send.
            terms: What the run promises: the largest L2 norm of a change, and the noise that the site adds to its sum.

        Raises:
            TrainingError: The change is not finite.
        """
        self.wipe()
        names = sorted(update)
        change = clipped(flattened(update, names) - flattened(shared, names), terms.clip_norm)
        if change is None:
            raise TrainingError("the change of the prompt has numbers that are not finite")
        self.store.write(self.values_file, save({CHANGE: change}))
        shares = shares_of(terms, len(work.agreement.sites))
        state = {
            "client": work.client,
            "round": work.round,
            "run": name_of_run(work.agreement, self.stage),
            "broadcast": hashlib.sha256(shared.to_bytes()).hexdigest(),
            "size": len(change),
            "bound": terms.clip_norm,
            "noise": shares.multiplier,
            "honest": shares.honest,
            "identities": list(work.agreement.identities),
        }
        self.store.write(self.state_file, sealed_json(state))

    def wipe(self) -> None:
        """Delete what belongs to a round."""
        for path in (self.state_file, self.values_file):
            path.unlink(missing_ok=True)

    def answer(self, question: Sum) -> tuple[SumAnswer, Mapping[str, PromptState]]:
        """Return the answer to ``question`` and its array, both written to the disk before.

        Raises:
            SecureSumError: The site holds no change of that round (any more), its values of the round were sent
                already, or the protocol forbids to go on.
        """
        state, digest = self._state(question), hashlib.sha256(question.model_dump_json().encode()).hexdigest()
        if state.get("question") == digest:
            return SumAnswer.create(
                client=question.client, round=question.round, message=SumMessage.model_validate_json(state["answer"])
            ), {MASKED: PromptState({WORDS: self._values(WORDS)})} if question.leg == "masked" else {}
        if question.leg not in AFTERWARDS and question.round <= self.last_sent():
            raise SecureSumError(
                f"values are sent once in a round, and those of round {question.round} were: a second sum could show "
                "one client by its difference"
            )
        if "size" not in state:
            raise SecureSumError(f"this site is done with the secure sum of round {question.round}")
        member = self._member(question, state)
        message = self._leg(member, question)
        words = SumMessage.of(message)
        answer = SumAnswer.create(client=question.client, round=question.round, message=words)
        arrays = array_of(message)
        if arrays:
            self.store.write(self.sent_file, str(question.round).encode())
            self.store.write(self.values_file, save(dict(arrays[MASKED])))
        record = {"question": digest, "answer": words.model_dump_json()}
        if question.leg == "unmask":
            state = {"client": question.client, "round": question.round, **record}
        else:
            state |= {**record, "member": member.state().decode()}
        self.store.write(self.state_file, sealed_json(state))
        if question.leg == "unmask":  # after the state: a process that is killed in between has its answer
            self.values_file.unlink(missing_ok=True)
        return answer, arrays

    def last_sent(self) -> int:
        """Return the last round whose values were sent; 0 before the first."""
        try:
            return int(read_bytes(self.sent_file, LIMITS.size)) if self.sent_file.exists() else 0
        except (OSError, ValueError) as error:
            raise SecureSumError(f"cannot read {printable(self.sent_file)}, so no values are sent") from error

    def _leg(self, member: Member, question: Sum) -> dict[str, Any]:
        if question.leg == "keys":
            return member.keys()
        if question.message is None:
            raise SecureSumError(f"the server sent nothing for the leg of '{question.leg}'")
        message = question.message.opened()
        if question.leg == "masked":
            return member.masked(message, shortened(self._values(CHANGE), member.terms.fixed).numpy())
        return {"shares": member.shares, "consent": member.consent, "unmask": member.unmask}[question.leg](message)

    def _member(self, question: Sum, state: Mapping[str, Any]) -> Member:
        """Return this site's member in the leg of ``question``, by terms that the site makes itself."""
        terms = SumTerms(
            run=state["run"],
            round=state["round"],
            attempt=1,
            broadcast=bytes.fromhex(state["broadcast"]),
            cohort=question.cohort,
            threshold=default_threshold(len(question.cohort)),
            size=state["size"],
            bound=state["bound"],
            noise=state["noise"],
            honest=state["honest"],
        )
        known = {client: bytes.fromhex(key) for client, key in enumerate(state["identities"])}
        identity = own_identity(self.store.state_dir)
        if "member" not in state:
            return Member(question.client, terms, identity, known)
        member = Member.restored(state["member"].encode(), identity, known)
        if member.terms != terms:
            raise SecureSumError("the server changed the cohort of a sum that has begun")
        return member

    def _state(self, question: Sum) -> dict[str, Any]:
        try:
            state = opened_json(read_bytes(self.state_file, LIMITS.size))
        except (OSError, FormatError) as error:
            raise SecureSumError(
                f"this site holds no change of round {question.round}: it has dropped out of the secure sum"
            ) from error
        if (state["client"], state["round"]) != (question.client, question.round):
            raise SecureSumError(
                f"the server asks for client {question.client}'s change of round {question.round}, and this site holds "
                f"client {state['client']}'s of round {state['round']}"
            )
        return state

    def _values(self, name: str) -> torch.Tensor:
        try:
            return parse_tensors(read_bytes(self.values_file, MOST_BYTES))[name]
        except (OSError, FormatError, KeyError) as error:
            raise SecureSumError(f"cannot read {printable(self.values_file)}: this site has dropped out") from error


def is_summed(config: RunConfig) -> bool:
    """Whether the server of a run is to learn sums of changes only."""
    return bool(PrivacyOptions.model_validate(config.privacy_options).secure_aggregation)


def check_sums(config: RunConfig) -> None:
    """Raise ConfigError if secure sums are wanted, and cannot be had."""
    if not is_summed(config):
        return
    check_ciphertexts(PrivacyOptions.model_validate(config.privacy_options), "flower")
    require_cryptography()
    if config.processors:
        raise ConfigError(
            "privacy.secure_aggregation over sites sums changes as they are trained: leave out processors"
        )
