"""How a run protects the examples of its clients: with the key in its folder, and within what each may spend."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptfed.errors import ConfigError
from promptfed.privacy.account import ReleaseAccount
from promptfed.privacy.dpsgd import DPSGD, Batches
from promptfed.privacy.example_account import ExampleAccount, least_noise
from promptfed.privacy.release import Spent
from promptfed.privacy.secret_key import key_of_run
from promptfed.privacy_options import PrivacyOptions
from promptfed.prompt_state import PromptState

Participants = Callable[[int], Sequence[int]]
"""From a round to the clients that take part in it."""


@dataclass(frozen=True)
class RunExamples:
    """The private training of a run's clients, and the account of it.

    A round is charged before its first client works, once for each set of broadcasts: begun again after a crash, it
    is the same, to the bit.

    Attributes:
        training: What trains in the method's place; None where sites train, each with a key of its own.
        account: The rounds so far, on disk.
        sites: What they cost each client.
        limit: The most that a client may spend; None: any.
        participants: Who takes part in a round.
    """

    training: DPSGD | None
    account: ReleaseAccount
    sites: ExampleAccount
    limit: float | None
    participants: Participants

    @classmethod
    def begin(
        cls,
        folder: Path,
        terms: PrivacyOptions,
        batches: Mapping[int, Batches],
        stage: str,
        participants: Participants,
        rounds: int,
        round: int,
        has_key: bool = True,
    ) -> RunExamples:
        """Return those of a run that begins, or that goes on after ``round``.

        Args:
            folder: The run's, where its key and its account are.
            terms: What it promises.
            batches: How each client's examples come into its steps.
            stage: What the noise is for.
            participants: Who takes part in a round.
            rounds: The planned rounds; noise that follows from a limit is what they can afford.
            round: The last finished one; 0: the run begins, and gets a key.
            has_key: Whether clients train here, and not at sites.

        Raises:
            RunError: The run has begun, and its key or its account is gone, or the key is another one.
            ConfigError: The limit does not allow one round.
        """
        account = ReleaseAccount(folder)
        account.check(round)
        noise = terms.noise
        if noise is None and account.releases:
            noise = account.releases[-1].multiplier
        if noise is None:
            planned = counted(participants, range(1, rounds + 1))
            noise = least_noise(batches, planned, terms.epsilon or 0.0, terms.delta)
        training = None
        if has_key:
            key = key_of_run(folder, is_begun=bool(round or account.releases))
            account.bind(key)
            training = DPSGD(key, terms.clip_norm, noise, terms.clip_space, stage)
        found = cls(training, account, ExampleAccount(batches, noise, terms.delta), terms.epsilon, participants)
        if not account.releases and not found.last_round(0, 1):
            raise ConfigError(
                f"privacy.noise={noise:g} spends more than privacy.epsilon={terms.epsilon:g} in the first round: raise "
                "one of them"
            )
        return found

    def charge(self, round: int, broadcasts: Mapping[int, PromptState]) -> None:
        """Record that the clients of ``broadcasts`` begin to work in ``round``.

        Raises:
            DiskError: The disk refuses; then they must not work.
        """
        digest = hashlib.sha256()
        for client, shared in sorted(broadcasts.items()):
            digest.update(f"{client}:".encode() + hashlib.sha256(shared.to_bytes()).digest())
        self.account(Spent(round, digest.hexdigest(), self.sites.multiplier, 1.0))

    def epsilons(self) -> dict[int, float]:
        """Return what each client has spent so far."""
        return self.sites.epsilons(self._rounds(spent.round for spent in self.account.releases))

    def last_round(self, round: int, planned: int) -> int:
        """Return the last round that all clients can afford of those ``planned``, after ``round`` finished ones."""
        if self.limit is None:
            return planned
        charged = [spent.round for spent in self.account.releases]

        def is_affordable(last: int) -> bool:
            more = [number for number in range(round + 1, last + 1) if not self.account.knows(number)]
            return self.sites.is_affordable(self._rounds([*charged, *more]), self.limit or 0.0)

        low, high = round, planned
        if low >= high or is_affordable(high):
            return high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if is_affordable(middle) else (low, middle)
        return low

    def _rounds(self, rounds: Iterable[int]) -> dict[int, int]:
        return {**dict.fromkeys(self.sites.batches, 0), **counted(self.participants, rounds)}


def counted(participants: Participants, rounds: Iterable[int]) -> dict[int, int]:
    """Return client -> in how many of ``rounds`` it takes part; those that never do are left out."""
    return Counter(client for number in rounds for client in participants(number))
