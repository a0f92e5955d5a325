"""Client-level differential privacy whose clip follows a quantile of the clients' changes (Andrew et al. 2021).

Nobody knows beforehand how long changes are (arXiv 1905.03871, algorithm 1). In each round a client also sends one bit,
whether its change is within the clip C, and C moves until a share ``quantile`` of them is::

    share = 1/2 + (sum_i (b_i - 1/2) + N(0, sigma_b^2)) / (q N)
    C <- C exp(-rate (share - quantile))

A bit less one half is 1/2 at most, so its noise has a multiplier of ``2 sigma_b``. The changes get a little more noise,
``z_D = (z^-2 - (2 sigma_b)^-2)^(-1/2)`` times C, so that both sums together are one release with multiplier z, and that
is what is accounted for. ``sigma_b`` is ``q N / 20``, as in the paper.

C is of the round before: it is part of the run's state, and public.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.privacy.noise import noised_sum, release_stream
from promptfed.privacy.release import PrivateMean, Spent, clipped, flattened
from promptfed.privacy.secret_key import SecretKey
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Update

CLIP = "release.clip"
"""The name of C ``()`` in the server's state."""
FARTHEST = 1e6
"""C stays within this factor of the first one, whatever the noise of the bits says."""


class AdaptiveMean(PrivateMean):
    """The noised sum of a round over the expected number of clients, clipped to a norm that follows a quantile.

    Args:
        key: The secret from which noise and samples come.
        clip: C of the first round.
        multiplier: z, which the changes and the bits spend together.
        clients: All clients of the federation, N.
        probability: q, with which each takes part in a round.
        account: Is told each release before anybody sees it.
        stage: What the noise is for, as a part of its label.
        quantile: The share of changes that C is to leave as they are.
        rate: How fast C follows.

    Raises:
        ConfigError: The bits' noise alone spends as much as z.
    """

    def __init__(
        self,
        key: SecretKey,
        clip: float,
        multiplier: float,
        clients: Sequence[int],
        probability: float = 1.0,
        account: Callable[[Spent], None] = lambda spent: None,
        stage: str = "",
        *,
        quantile: float = 0.5,
        rate: float = 0.2,
    ) -> None:
        super().__init__(key, clip, multiplier, clients, probability, account, stage)
        self.quantile, self.rate = quantile, rate
        self.bit_noise = bit_noise(self.denominator)
        self.change_multiplier = change_multiplier(multiplier, self.bit_noise)

    def start(self) -> PromptState:
        return PromptState({CLIP: torch.tensor(self.clip)})

    def mean(
        self, shared: PromptState, names: Sequence[str], updates: Sequence[Update], asked: Sequence[int], round: int
    ) -> Update:
        return self.released(shared, names, updates, asked, round, NO_PROMPT)[0]

    def released(
        self,
        shared: PromptState,
        names: Sequence[str],
        updates: Sequence[Update],
        asked: Sequence[int],
        round: int,
        memory: PromptState,
    ) -> tuple[Update, PromptState]:
        clip = float(memory.get(CLIP, self.start()[CLIP]))
        total = torch.zeros_like(flattened(shared, names))
        if changes := self.changes(shared, names, updates, clip):
            total = self.sums(changes, asked, shared, round).values
        halves = torch.tensor([sum(self._halves(shared, names, updates, clip))]).double()
        both = torch.cat([total, halves, torch.tensor([clip]).double()])
        mark = self.key.keyed_hash(both.numpy().tobytes()).hex()
        self.account(Spent(round, mark, self.multiplier, self.probability, clip))
        if self.multiplier:
            stream = release_stream(self.key, self.stage, round, both, clip, self.change_multiplier)
            total = noised_sum(total, clip, self.change_multiplier, stream)
            noise = 2 * self.bit_noise
            stream = release_stream(self.key, f"{self.stage} within the clip", round, both, 0.5, noise)
            halves = noised_sum(halves, 0.5, noise, stream)
        share = 0.5 + halves.item() / self.denominator
        following = min(
            max(next_clip(clip, share, self.quantile, self.rate), self.clip / FARTHEST), self.clip * FARTHEST
        )
        return self._update(shared, names, total / self.denominator), PromptState({CLIP: torch.tensor(following)})

    def _halves(self, shared: PromptState, names: Sequence[str], updates: Sequence[Update], clip: float) -> list[float]:
        """Return 1/2 for each change within ``clip``, -1/2 for each longer one, 0 for each that is not finite."""
        start = flattened(shared, names)
        return [_half(flattened(update.shared, names) - start, clip) for update in updates]


def _half(change: Tensor, clip: float) -> float:
    if clipped(change, clip) is None:
        return 0.0
    return 0.5 if change.norm().item() <= clip else -0.5


def bit_noise(expected: float) -> float:
    """Return sigma_b, the standard deviation of the noise of the sum of bits of so many ``expected`` clients."""
    return expected / 20


def change_multiplier(multiplier: float, sigma_b: float) -> float:
    """Return the noise multiplier of the changes beside bits with noise ``sigma_b``, if both spend ``multiplier``.

    Raises:
        ConfigError: ``sigma_b`` is at most half of ``multiplier``: then the bits spend as much alone.
    """
    if not multiplier:
        return 0.0
    if sigma_b <= multiplier / 2:
        raise ConfigError(
            f"privacy.clip=adaptive does not go with a noise multiplier of {multiplier:g} and {20 * sigma_b:g} clients "
            f"a round: bits with noise of {sigma_b:g} spend as much alone; it takes more than {10 * multiplier:.4g} "
            "clients, or say privacy.clip=C"
        )
    return float((multiplier**-2 - (2 * sigma_b) ** -2) ** -0.5)


def next_clip(clip: float, share: float, quantile: float, rate: float) -> float:
    """Return C after a round in which a ``share`` of the changes, noised, was within ``clip``."""
    return clip * math.exp(-rate * (share - quantile))
