"""Homomorphic encryption, the second way to a sum: the server adds ciphertexts, and the clients have the key.

BFV (Fan and Vercauteren 2012, eprint 2012/144) as Microsoft SEAL has it, by TenSEAL (pip install 'promptfed[he]'). It
is exact on whole numbers, so values are written as in a masked sum (``FixedPoint``). CKKS would be approximate, and who
sees its decrypted results can find the key (Li and Micciancio 2021, eprint 2020/1533); here the server sees them.

One secret key for all clients makes it weaker than a masked sum: a server that works with one client reads the change
of every other, and a client that decrypts cannot see how many are in what it decrypts.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from promptfed.errors import MissingPackageError, SecureSumError
from promptfed.privacy.channel_keys import KEY_BYTES
from promptfed.privacy.fixed_point import FixedPoint, Reals
from promptfed.privacy.masks import WORD_BYTES
from promptfed.privacy.release import SecretSums, Total
from promptfed.privacy.secret_key import Secret
from promptfed.privacy.simulated_sums import FEWEST, check_asked, shortened
from promptfed.prompt_state import PromptState

T = TypeVar("T")
DEGREE = 4_096
"""Values of a ciphertext. SEAL's modulus for it, of 109 bits, has 128 bits of security."""
PLAIN_MODULUS = 8_590_090_241
"""The least prime above 2^33 that is 1 modulo 2 ``DEGREE``: sums of 32 bits fit, and values have slots of their own."""


class HeKeys(Secret):
    """The key pair of all clients; ``public`` is what the server has, too."""

    __slots__ = ("context", "public")

    def __init__(self) -> None:
        seal = require_tenseal()
        self.context = seal.context(seal.SCHEME_TYPE.BFV, DEGREE, PLAIN_MODULUS)
        unneeded = {"save_secret_key": False, "save_galois_keys": False, "save_relin_keys": False}
        self.public: bytes = self.context.serialize(save_public_key=True, **unneeded)


class HeClient:
    """A client: it encrypts its own values, and decrypts sums."""

    def __init__(self, keys: HeKeys, fixed: FixedPoint) -> None:
        self.keys, self.fixed = keys, fixed

    def encrypted(self, values: Reals) -> list[bytes]:
        """Return ``values`` ``(d,)`` in fixed point, ``ceil(d / DEGREE)`` ciphertexts of about 88 kB."""
        words = self.fixed.encode(values, 1, secrets.token_bytes(KEY_BYTES)).view(np.int32)
        parts = (words[place : place + DEGREE].tolist() for place in range(0, len(words), DEGREE))
        return [require_tenseal().bfv_vector(self.keys.context, part).serialize() for part in parts]

    def decrypted(self, total: Sequence[bytes], clients: int) -> Reals:
        """Return the sum over so many ``clients`` that ``total`` is.

        Raises:
            SecureSumError: It is the sum of something else.
        """
        vectors = (require_tenseal().bfv_vector_from(self.keys.context, part) for part in total)
        steps = np.concatenate([np.array(vector.decrypt(), dtype=np.int64) for vector in vectors])
        return self.fixed.decode(steps.astype(np.uint32), clients)


def added(public: bytes, ciphertexts: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Return the sum of what several clients encrypted, as the server makes it, which has the ``public`` key alone."""
    seal = require_tenseal()
    context, total = seal.context_from(public), []
    for parts in zip(*ciphertexts, strict=True):
        first, *others = (seal.bfv_vector_from(context, part) for part in parts)
        for other in others:
            first += other
        total.append(first.serialize())
    return total


@dataclass(frozen=True)
class HeRound:
    """What a sum cost: processor time of one client for its own values and for the sum, of the server, and bytes."""

    client_seconds: float
    server_seconds: float
    bytes_up: int
    bytes_down: int


class HeSums(SecretSums):
    """Sum the changes of simulated clients by ciphertexts; the client with the lowest number decrypts the sum.

    Args:
        bound: The largest absolute value of a change; the clip, which bounds the norm, bounds each value.

    Attributes:
        last: What the last round cost; None before the first.
    """

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound, self.keys = bound, HeKeys()
        self.last: HeRound | None = None

    def __call__(self, changes: Mapping[int, Tensor], asked: Sequence[int], shared: PromptState, round: int) -> Total:
        """Return the sum over the clients with ``changes``; the others of those ``asked`` are lost.

        Raises:
            SecureSumError: Fewer than three are left, so that each would know of the others.
        """
        check_asked(len(asked))
        client = HeClient(self.keys, FixedPoint(self.bound, len(asked)))
        values = [shortened(change, client.fixed).numpy() for change in changes.values()]
        sent, encrypting = _timed(lambda: [client.encrypted(each) for each in values])
        bytes_up = {client: sum(map(len, parts)) for client, parts in zip(changes, sent, strict=True)}
        self.count(bytes_up, {})
        if len(changes) < FEWEST:
            raise SecureSumError(f"a secure sum needs {FEWEST} clients, and {len(changes)} are left")
        total, adding = _timed(lambda: added(self.keys.public, sent))
        decrypts = min(changes)
        self.count(bytes_up, {decrypts: sum(map(len, total))})
        result, decrypting = _timed(lambda: client.decrypted(total, len(changes)))
        up, down = (sum(map(len, parts)) for parts in (sent[0], total))
        self.last = HeRound(encrypting / len(changes) + decrypting, adding, up, down)
        bytes_up[decrypts] += WORD_BYTES * len(result)
        self.count(bytes_up, {decrypts: down})
        return Total(torch.from_numpy(result), len(changes))


def require_tenseal() -> Any:
    """Return the package. Raise MissingPackageError if it is not installed."""
    try:
        import tenseal
    except ImportError as error:
        raise MissingPackageError(
            f"privacy.secure_aggregation=he needs tenseal, which is not installed here ({error}): pip install "
            "'promptfed[he]'"
        ) from error
    return tenseal


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    begin = time.thread_time()
    return work(), time.thread_time() - begin
