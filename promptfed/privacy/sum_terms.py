"""What all clients and the server of a secure sum must agree on."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from promptfed.errors import SecureSumError
from promptfed.printable import is_printable
from promptfed.privacy.fixed_point import FixedPoint

FEWEST_CLIENTS = 3
"""In a sum over two, each knows the other's part."""
DIGEST_BYTES, LABEL_BYTES = 32, 16
LONGEST_RUN_NAME = 200


def default_threshold(clients: int) -> int:
    """Return the smallest number that is more than two thirds of ``clients``.

    A server that lies about who is lost can collect both secrets of a client only with the help of ``2 t - n`` or more
    of the n clients, which is more than a third of them.
    """
    return 2 * clients // 3 + 1


@dataclass(frozen=True)
class SumTerms:
    """The terms of one attempt to sum in one round. Each client makes its own, from what it was sent and knows.

    Attributes:
        run: The run's identity.
        round: From 1.
        attempt: From 1; another attempt has other keys.
        broadcast: SHA-256 of what the client was sent in this round.
        cohort: The clients that are asked, in rising order, three or more.
        threshold: How many must be left in every leg; more than half of the cohort, and three or more.
        size: Values of a client.
        bound: The largest absolute value.
        max_weight: The largest weight; with 1, all have it and none is sent.
        noise: Standard deviation of the noise of ``honest`` clients together, over the bound; 0: nobody adds any.
        honest: How many clients' shares of the noise suffice; 0 without noise. At most the threshold, as the sum may be
            over no more; and so many that the others are fewer than the threshold, who could take all masks off.
    """

    run: str
    round: int
    attempt: int
    broadcast: bytes
    cohort: tuple[int, ...]
    threshold: int
    size: int
    bound: float
    max_weight: int = 1
    noise: float = 0.0
    honest: int = 0

    def __post_init__(self) -> None:
        count = len(self.cohort)
        if not (0 < len(self.run) <= LONGEST_RUN_NAME and is_printable(self.run)):
            raise SecureSumError(f"a run's name has 1 to {LONGEST_RUN_NAME} printable characters")
        if min(self.round, self.attempt, self.size) < 1 or len(self.broadcast) != DIGEST_BYTES:
            raise SecureSumError(
                f"round {self.round}, attempt {self.attempt}, {self.size} values and a digest of "
                f"{len(self.broadcast)} bytes are no terms of a secure sum"
            )
        if count < FEWEST_CLIENTS:
            raise SecureSumError(f"a secure sum needs {FEWEST_CLIENTS} clients or more; the cohort has {count}")
        if list(self.cohort) != sorted(set(self.cohort)) or self.cohort[0] < 0 or self.cohort[-1] >= 2**32:
            raise SecureSumError("the clients of a cohort are numbers from 0, rising, each once")
        if not max(count / 2, FEWEST_CLIENTS - 1) < self.threshold <= count:
            raise SecureSumError(
                f"a threshold of {self.threshold} does not go with {count} clients: give more than half of them, and "
                f"{FEWEST_CLIENTS} or more"
            )
        if self.noise and self.max_weight > 1:
            raise SecureSumError("noise goes with equal weights, and here they differ")
        if self.noise and not count - self.threshold < self.honest <= self.threshold:
            raise SecureSumError(
                f"noise for which {self.honest} honest clients suffice does not go with {count} clients, of whom "
                f"{self.threshold} make a sum: {count - self.threshold + 1} to {self.threshold} do"
            )
        _ = self.fixed

    @cached_property
    def fixed(self) -> FixedPoint:
        """How values are written."""
        share = self.noise / math.sqrt(self.honest) if self.noise else 0.0
        return FixedPoint(self.bound, len(self.cohort), self.max_weight, share)

    @property
    def words(self) -> int:
        """Words of a client's masked answer: its values and, where weights differ, its weight."""
        return self.size + (self.max_weight > 1)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all terms; signatures, keys and masks depend on it."""
        text = json.dumps(self.plain(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(b"promptfed secure sum 1" + text.encode()).digest()

    @property
    def label(self) -> bytes:
        """The beginning of the digest, which every message carries."""
        return self.digest[:LABEL_BYTES]

    def plain(self) -> dict[str, Any]:
        """Return the terms as values of JSON."""
        exact = {"broadcast": self.broadcast.hex(), "cohort": list(self.cohort), "bound": float(self.bound)}
        return asdict(self) | exact | {"noise": float(self.noise)}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> SumTerms:
        """Return the terms that ``plain`` made the values of.

        Raises:
            SecureSumError: They are no such values.
        """
        try:
            return cls(**{**plain, "broadcast": bytes.fromhex(plain["broadcast"]), "cohort": tuple(plain["cohort"])})
        except (KeyError, TypeError, ValueError) as error:
            raise SecureSumError("these are no terms of a secure sum") from error
