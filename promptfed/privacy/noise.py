"""Noise that only the holder of the key can predict, on a grid of whole numbers (no floating-point holes).

``NoiseStream`` is a pseudo-random function of (key, labels): HMAC-SHA256 derives a subkey from the labels, SHAKE-256
of (subkey, block number) yields the words. Both are in Python's standard library, so that a private run needs no
package; torch's and numpy's generators are no cryptographic ones.

``discrete_gaussian`` samples exactly (Canonne, Kamath and Steinke 2020, arXiv 2004.00010, algorithms 1-3), in whole
numbers only: the same key and labels give the same noise on every machine. We take the Laplace scale ``t = sigma``,
not ``floor(sigma) + 1``; any whole ``t`` is right.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.privacy.secret_key import Secret, SecretKey

BLOCK_WORDS = 1_024
STEPS = 2**23
"""At least so many grid steps fit into one standard deviation of ``noised_sum``'s noise."""
MOST_ROUNDING = 1 / 64
"""Share by which rounding may raise the noise; more values than that are refused."""
LARGEST_SIGMA = 2**24
"""Grid steps: up to here the sampler's products fit into 63 bits."""
LARGEST_TAIL = 64
"""Proposals beyond so many standard deviations are not accepted; exact acceptance is rarer than one in 10^800."""
LARGEST_STEP = 2**53
"""Grid steps that float64 counts exactly."""

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]


class NoiseStream(Secret):
    """An endless stream of uniform 64-bit words: a function of ``key`` and ``labels`` alone.

    Labels differ if they differ in value, type or order. The same key and labels give the same words again, so two
    releases of different data need different labels (``release_stream``).
    """

    __slots__ = ("_block", "_left", "_subkey")

    def __init__(self, key: SecretKey | bytes, *labels: str | int | bytes):
        secret = key.reveal() if isinstance(key, SecretKey) else key
        name = b"".join(_encoded(label) for label in labels)
        self._subkey = hmac.new(secret, b"promptfed noise 1" + name, hashlib.sha256).digest()
        self._block = 0
        self._left: Words = np.zeros(0, np.uint64)

    def words(self, count: int) -> Words:
        """Return the next ``count`` words, uniform in 0..2^64-1."""
        parts = [self._left]
        while (missing := count - sum(map(len, parts))) > 0:
            blocks = -(-missing // BLOCK_WORDS)
            parts += [self._words_of(self._block + offset) for offset in range(blocks)]
            self._block += blocks
        words = np.concatenate(parts)
        self._left = words[count:]
        return words[:count]

    def below(self, bounds: Words) -> Words:
        """Return one number for each of ``bounds``, exactly uniform in 0..bound-1, by rejection."""
        numbers = self.words(len(bounds))
        largest = np.uint64(2**64 - 1)
        last = largest - (largest % bounds + np.uint64(1)) % bounds  # the last word of the last whole multiple
        while (rejected := np.flatnonzero(numbers > last)).size:
            numbers[rejected] = self.words(rejected.size)
        return numbers % bounds

    def _words_of(self, block: int) -> Words:
        data = hashlib.shake_256(self._subkey + block.to_bytes(8, "little")).digest(8 * BLOCK_WORDS)
        words: Words = np.frombuffer(data, "<u8").astype(np.uint64)
        return words


def _encoded(label: str | int | bytes) -> bytes:
    data = label if isinstance(label, bytes) else str(label).encode()
    kind = b"b" if isinstance(label, bytes) else b"s" if isinstance(label, str) else b"i"
    return kind + len(data).to_bytes(8, "big") + data


def release_stream(
    key: SecretKey | bytes, stage: str, round: int, values: Tensor, clip: float, multiplier: float
) -> NoiseStream:
    """Return the stream for one release of ``values``: repeated after a kill, it is the same bytes and one release.

    Other values (a client was lost at the second attempt) get independent noise, and are a release more. Noise fixed
    by the round alone would be fatal: two releases would differ by exactly one client's change.
    """
    content = (values.detach().double().cpu() + 0.0).numpy().astype("<f8").tobytes()  # + 0.0: no negative zero
    digest = hashlib.sha256(content).digest()
    return NoiseStream(key, "release", stage, round, digest, float(clip).hex(), float(multiplier).hex())


def gaussian(stream: NoiseStream, shape: Sequence[int], std: float) -> Tensor:
    """Return float64 Gaussian noise of ``shape`` by Box and Muller (1958).

    Its last bits say something about what it was added to (Mironov 2012): a report of it says "floating-point noise".
    """
    count = math.prod(shape)
    words = stream.words(2 * count) >> np.uint64(11)  # 53 bits
    radius = np.sqrt(-2.0 * np.log((words[:count] + np.uint64(1)) * 2.0**-53))
    angle = 2.0 * math.pi * (words[count:] * 2.0**-53)
    return torch.from_numpy(std * radius * np.cos(angle)).reshape(tuple(shape))


def discrete_gaussian(stream: NoiseStream, count: int, sigma: int) -> Integers:
    """Return ``count`` whole numbers with ``P(x) ~ exp(-x^2 / (2 sigma^2))``, sampled exactly (CKS algorithm 3).

    Args:
        stream: Where the coins come from.
        count: Numbers to return.
        sigma: A whole number in 1..2^24; the variance is ``sigma^2``, up to less than 1e-6 for ``sigma`` 1.
    """
    if sigma != int(sigma) or not 1 <= sigma <= LARGEST_SIGMA:
        raise ValueError(f"sigma is a whole number in 1..{LARGEST_SIGMA}, not {sigma}")
    sigma, parts, total = int(sigma), [np.zeros(0, np.int64)], 0
    while total < count:
        proposals = _discrete_laplace(stream, (count - total) * 2 + 16, sigma)
        distance = np.abs(np.abs(proposals) - sigma)
        near = distance < LARGEST_TAIL * sigma
        proposals, distance = proposals[near], distance[near].astype(np.uint64)
        accepted = proposals[_bernoulli_exp(stream, distance * distance, 2 * sigma * sigma)]
        parts.append(accepted)
        total += len(accepted)
    return np.concatenate(parts)[:count]


def noised_sum(values: Tensor, clip: float, multiplier: float, stream: NoiseStream) -> Tensor:
    """Return ``values`` plus discrete Gaussian noise of standard deviation ``multiplier * clip``; float64 ``(n,)``.

    ``values`` is a sum to which each client adds a change of norm ``clip`` at most. It is rounded to a grid, whose
    step g is a power of two, so that the division is exact. Rounding can move two neighbouring sums apart by g in
    each value: their distance is at most ``clip + g sqrt(n)``, and the noise is ``multiplier`` times that, so an
    accountant is told ``multiplier`` as it is. That adds less than 1 part in 10^4 for n <= 10^4 and multiplier <= 8.
    One standard deviation is 2^23 to 2^24 steps: the noise is then the rounded continuous one up to
    ``0.02 n / sigma^2`` < 3e-16 n in total variation, and each curve of the Gaussian, subsampled too, holds.

    Raises ValueError for values that are not finite (a client whose change is none counts as zero), or far too large.
    """
    step, sigma = grid(len(values), clip, multiplier)
    steps = (values.detach().double().cpu() / step).round().numpy()
    if not (np.abs(steps) < LARGEST_STEP).all():
        raise ValueError(f"a sum of changes is a finite number below {LARGEST_STEP * step:g} here")
    return torch.from_numpy((steps.astype(np.int64) + discrete_gaussian(stream, len(steps), sigma)) * step)


def grid(count: int, clip: float, multiplier: float) -> tuple[float, int]:
    """Return the grid's step, a power of two, and the noise's standard deviation in steps, for ``count`` values."""
    if not (0 < clip < math.inf and 0 < multiplier < math.inf):
        raise ValueError(f"clip and noise multiplier are positive numbers, not {clip} and {multiplier}")
    if multiplier * math.sqrt(count) > MOST_ROUNDING * STEPS:
        raise ValueError(f"{count} values at noise multiplier {multiplier:g} are too many for the grid")
    step = 2.0 ** math.floor(math.log2(multiplier * clip / STEPS))
    sigma = math.ceil(multiplier * (clip / step + math.sqrt(count)))
    if sigma > LARGEST_SIGMA:  # by what the rounding adds
        step *= 2
        sigma = math.ceil(multiplier * (clip / step + math.sqrt(count)))
    return step, sigma


def check_grid(what: str, count: int, clip: float, multiplier: float, clients: int) -> None:
    """Check that noise for a sum of ``count`` values of so many ``clients`` fits its grid.

    Raises:
        ConfigError: ``what`` is too large or too small for that.
    """
    if not multiplier:
        return
    try:
        step, _ = grid(count, clip, multiplier)
        fits = step > 0 and clients * clip < LARGEST_STEP * step
    except (ValueError, OverflowError):
        fits = False
    if not fits:
        raise ConfigError(
            f"{what}={multiplier:g} with a clip of {clip:g} does not go with {count:,} values of {clients:,} clients: "
            "the noise is too large or too small for its grid"
        )


def _discrete_laplace(stream: NoiseStream, count: int, scale: int) -> Integers:
    """Return about ``count / 2`` whole numbers with ``P(x) ~ exp(-|x| / scale)`` (CKS algorithm 2)."""
    remainder = stream.below(np.full(count, scale, np.uint64))
    remainder = remainder[_bernoulli_exp(stream, remainder, scale)]
    size = remainder.astype(np.int64) + scale * _successes(stream, len(remainder))
    negative = (stream.words(len(size)) & np.uint64(1)).astype(bool)
    signed: Integers = np.where(negative, -size, size)
    unique: Integers = signed[~(negative & (size == 0))]  # zero has one sign
    return unique


def _successes(stream: NoiseStream, count: int) -> Integers:
    """Return how many coins of probability ``exp(-1)`` show heads before the first tail, ``count`` times."""
    successes = np.zeros(count, np.int64)
    running = np.arange(count)
    while running.size:
        running = running[_bernoulli_of_fraction(stream, np.ones(running.size, np.uint64), 1)]
        successes[running] += 1
    return successes


def _bernoulli_exp(stream: NoiseStream, numerator: Words, denominator: int) -> NDArray[np.bool_]:
    """Toss one coin of probability ``exp(-numerator / denominator)`` for each numerator (CKS algorithm 1)."""
    whole, rest = numerator // np.uint64(denominator), numerator % np.uint64(denominator)
    heads = _bernoulli_of_fraction(stream, rest, denominator)
    running = np.flatnonzero(heads & (whole > 0))
    while running.size:
        still = _bernoulli_of_fraction(stream, np.ones(running.size, np.uint64), 1)
        heads[running[~still]] = False
        whole[running] -= np.uint64(1)
        running = running[still & (whole[running] > 0)]
    return heads


def _bernoulli_of_fraction(stream: NoiseStream, numerator: Words, denominator: int) -> NDArray[np.bool_]:
    """Toss coins of probability ``exp(-g)``, where ``g = numerator / denominator`` lies in 0..1.

    Heads if the first k whose coin of probability ``g / k`` shows a tail is odd.
    """
    heads = np.zeros(len(numerator), np.bool_)
    running, k = np.arange(len(numerator)), 1
    while running.size:
        bounds = np.full(running.size, k * denominator, np.uint64)
        tail = stream.below(bounds) >= numerator[running]
        heads[running[tail]] = k % 2 == 1
        running, k = running[~tail], k + 1
    return heads
