"""How a run releases its prompts: with the key in its folder, and within what it may spend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptfed.privacy.account import ReleaseAccount, grouped
from promptfed.privacy.accountant import Release as Spending
from promptfed.privacy.accountant import epsilon
from promptfed.privacy.adaptive_clip import AdaptiveMean
from promptfed.privacy.he import HeSums
from promptfed.privacy.noise_shares import shares_of
from promptfed.privacy.noised_sums import NoisedMean
from promptfed.privacy.release import PrivateMean, Release, Spent, SumMean, Sums, plain_sum
from promptfed.privacy.secret_key import key_of_run
from promptfed.privacy.simulated_sums import SimulatedSums
from promptfed.privacy.terms import most_releases
from promptfed.privacy_options import PrivacyOptions
from promptfed.prompt_state import PromptState


@dataclass(frozen=True)
class RunRelease:
    """The release of a run's rounds, and the account of it; None where there is nothing to account for."""

    mean: Release
    account: ReleaseAccount | None = None

    @classmethod
    def begin(
        cls,
        folder: Path,
        terms: PrivacyOptions,
        clients: Sequence[int],
        probability: float,
        rounds: int,
        round: int,
        sums: Sums | None = None,
    ) -> RunRelease:
        """Return the release of a run that begins, or that goes on after ``round``.

        Args:
            folder: The run's, where its key and its account are.
            terms: What it promises.
            clients: All of them.
            probability: Chance of a client to take part in a round.
            rounds: The planned rounds.
            round: The last finished one; 0: the run begins, and gets a key.
            sums: How the engine's clients sum their changes themselves; None simulates it.

        Raises:
            RunError: The run has begun, and its key or its account is gone, or the key is another one.
            ConfigError: The limit does not allow one round.
        """
        if terms.secure_aggregation == "he":
            sums = HeSums(terms.clip_norm)
        if terms.dp != "client":
            return cls(SumMean(terms.clip_norm, sums or SimulatedSums(terms.clip_norm)))
        account = ReleaseAccount(folder, most_releases(terms, probability, rounds), lambda made: _affords(terms, made))
        account.check(round)
        key = key_of_run(folder, is_begun=bool(round or account.releases))
        account.bind(key)
        if terms.noise_at == "clients":
            shares = shares_of(terms, len(clients))
            noised = sums or SimulatedSums(terms.clip_norm, shares, key)
            return cls(NoisedMean(key, terms.clip_norm, shares, clients, noised, account), account)
        sums = (sums or SimulatedSums(terms.clip_norm)) if terms.secure_aggregation else plain_sum
        common = key, terms.clip_norm, terms.noise or 0.0, clients, probability, account
        if terms.clip == "adaptive":
            return cls(AdaptiveMean(*common, quantile=terms.quantile, rate=terms.clip_rate), account)
        return cls(PrivateMean(*common, sums=sums), account)

    def charge(self, round: int, broadcasts: Mapping[int, PromptState]) -> None:
        """Record nothing at the start of ``round``: the release at its end is what is charged."""

    def last_round(self, round: int, planned: int) -> int:
        """Return the last round that may be released of those ``planned``, after ``round`` finished ones."""
        if self.account is None or self.account.most is None:
            return planned
        left, last = self.account.most - len(self.account.releases), round
        while last < planned and (left > 0 or self.account.knows(last + 1)):
            last += 1
            left -= not self.account.knows(last)
        return last


def _affords(terms: PrivacyOptions, releases: Sequence[Spent]) -> bool:
    """Return whether ``releases`` are within the limit of ``terms``."""
    spent = [Spending(*kind, count) for kind, count in grouped(releases).items()]
    return terms.epsilon is None or epsilon(spent, terms.delta) <= terms.epsilon
