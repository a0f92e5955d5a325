"""Client-level differential privacy where the clients add the noise: the server gets the noised sum and no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from promptfed.errors import SecureSumError
from promptfed.privacy.noise_shares import NoiseShares, sum_mark
from promptfed.privacy.release import PrivateMean, Spent, Sums
from promptfed.privacy.secret_key import SecretKey
from promptfed.prompt_state import PromptState
from promptfed.types import Update


class NoisedMean(PrivateMean):
    """The sum of a round, with every client's share of the noise in it, over the number of clients, accounted for.

    A round is charged before the sum is asked for: whether there is one or not, nobody has it without its noise. Where
    there is none, the shared prompt stays as it was, which tells who was lost and nothing else.

    Args:
        key: The run's secret, for the marks of releases; at real sites no noise comes from it.
        clip: C, the largest L2 norm of a client's change over all tensors together.
        shares: The noise that each client adds; the account is told what the honest ones' come to.
        clients: All clients of the federation, each of which takes part in every round.
        sums: How the changes are summed, with the noise.
        account: Is told each release before anybody sees it.
    """

    def __init__(
        self,
        key: SecretKey,
        clip: float,
        shares: NoiseShares,
        clients: Sequence[int],
        sums: Sums,
        account: Callable[[Spent], None] = lambda spent: None,
    ) -> None:
        super().__init__(key, clip, shares.multiplier, clients, account=account, sums=sums)
        self.shares = shares

    def mean(
        self, shared: PromptState, names: Sequence[str], updates: Sequence[Update], asked: Sequence[int], round: int
    ) -> Update:
        changes = self.changes(shared, names, updates)
        mark = sum_mark(self.key, changes, asked, round, self.shares).hex()
        self.account(Spent(round, mark, self.multiplier, self.probability))
        if not changes:
            raise SecureSumError("no client sent a change")
        total = self.sums(changes, asked, shared, round)
        return self._update(shared, names, total.values / self.denominator)
