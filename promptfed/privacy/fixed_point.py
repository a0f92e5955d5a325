"""Real numbers as integers modulo 2^32, so that masked ones can be added and the sum read afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from promptfed.errors import SecureSumError
from promptfed.privacy.masks import Words, stream_words
from promptfed.privacy.noise import LARGEST_SIGMA

Reals = npt.NDArray[np.float64]
WORD_BITS = 32
LEAST_FRACTION_BITS = 8
"""With fewer, a value has no meaning left; there are too many clients or too large weights."""
NOISE_TAIL = 12
"""Standard deviations of noise that a sum has room for; one value in 10^32 has more."""


@dataclass(frozen=True)
class FixedPoint:
    """How values from -``bound`` to ``bound`` are written, so that the sum over all clients fits in 32 bits.

    With f fraction bits a step is ``bound / (2^f - 1)``. Headroom for the sum of ``clients`` values times weights of
    at most ``max_weight`` takes ``ceil(log2(clients max_weight))`` bits, and the sign another one. Where each client
    adds noise, the sum has room for 12 standard deviations of it too.

    Attributes:
        bound: The largest absolute value; larger ones are cut.
        clients: The most values in a sum.
        max_weight: The largest integer that a client's values are multiplied by.
        noise: Standard deviation of the noise that each client adds, over ``bound``; 0: none.
    """

    bound: float
    clients: int
    max_weight: int = 1
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound > 0 and self.clients >= 1 and self.max_weight >= 1):
            raise SecureSumError(
                f"a sum of {self.clients} values up to {self.bound} with weights up to {self.max_weight} is none"
            )
        if not 0 <= self.noise < math.inf:
            raise SecureSumError(f"a standard deviation of noise is 0 or more, not {self.noise}")
        if self.noise and self.fraction_bits < LEAST_FRACTION_BITS:
            raise SecureSumError(
                f"noise of {self.noise:.3g} times the clip from each of {self.clients} clients leaves a value fewer "
                f"than {LEAST_FRACTION_BITS} of {WORD_BITS} bits: lower privacy.noise"
            )
        if self.fraction_bits < LEAST_FRACTION_BITS:
            raise SecureSumError(
                f"{self.clients} clients with weights up to {self.max_weight} leave {self.fraction_bits} of "
                f"{WORD_BITS} bits for a value, and {LEAST_FRACTION_BITS} are the fewest: lower the largest weight"
            )

    @property
    def fraction_bits(self) -> int:
        """Bits of a value besides its sign and the headroom: 27 for 10 clients, 24 for 100, without weights."""
        bits = WORD_BITS - 1 - (self._headroom - 1).bit_length()
        return min(bits, math.floor(math.log2(LARGEST_SIGMA / self.noise))) if self.noise else bits

    @property
    def largest(self) -> int:
        """The integer that stands for ``bound``: 2^f - 1, lest the sum of 2^k of them wrap around."""
        return (1 << self.fraction_bits) - 1

    @property
    def noise_steps(self) -> int:
        """The standard deviation of a client's noise in steps, at most ``LARGEST_SIGMA``; 0: none."""
        return math.ceil(self.noise * self.largest)

    @property
    def _headroom(self) -> int:
        """How often ``largest`` must fit into a sum: for all values, and for the noise."""
        return self.clients * self.max_weight + math.ceil(NOISE_TAIL * self.noise * math.sqrt(self.clients))

    @property
    def error_bound(self) -> float:
        """How far a sum of ``clients`` values can be off by rounding: ``clients bound / (2^f - 1)``."""
        return self.clients * self.bound / self.largest

    def beyond(self, values: Reals) -> int:
        """Count the values that ``encode`` cuts."""
        return int((np.abs(values) > self.bound).sum())

    def encode(self, values: Reals, weight: int, key: bytes) -> Words:
        """Return ``weight`` times ``values`` in steps, modulo 2^32.

        Each is rounded down or up at random, so that its mean is right: ``floor(weight x / step + u)``, u uniform.

        Args:
            values: ``(d,)``; those beyond the bound are cut to it.
            weight: From 1 to the largest.
            key: 32 secret bytes that u comes from, used for nothing else.

        Raises:
            SecureSumError: A value is not finite, or the weight is not allowed.
        """
        if not 1 <= weight <= self.max_weight:
            raise SecureSumError(f"a weight of {weight} is not allowed: 1 to {self.max_weight} are")
        if not np.isfinite(values).all():
            raise SecureSumError("values that are not finite cannot be summed")
        steps = np.clip(values, -self.bound, self.bound) * (weight * self.largest / self.bound)
        rounded = np.floor(steps + stream_words(key, len(values)) / 2.0**WORD_BITS)
        limit = weight * self.largest  # a float64 product may be a bit beyond it
        return np.clip(rounded, -limit, limit).astype(np.int64).astype(np.uint32)

    def decode(self, words: Words, total_weight: int) -> Reals:
        """Return the sum that ``words`` are.

        Args:
            words: ``(d,)``, the sum modulo 2^32 of what clients encoded.
            total_weight: The sum of their weights.

        Raises:
            SecureSumError: A number is larger than such a sum can be, so it is none: masks are left in it.
        """
        steps = words.astype(np.uint32, copy=False).view(np.int32).astype(np.float64)
        noise = NOISE_TAIL * self.noise_steps * math.sqrt(self.clients)
        if len(steps) and np.abs(steps).max() > total_weight * self.largest + noise:
            raise SecureSumError(
                "the sum is larger than its parts can be: masks are left in it, or a client sent no proper values"
            )
        return steps * (self.bound / self.largest)
