"""Yes or no for each of many examples, as text: eight in two hexadecimal digits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def packed_bits(values: Sequence[bool]) -> str:
    """Return ``values`` as hexadecimal digits, the first value in the highest bit of the first byte."""
    return np.packbits(np.array(values, dtype=bool)).tobytes().hex()


def unpacked_bits(text: str, count: int) -> list[bool]:
    """Return the ``count`` values of ``packed_bits``; none if ``text`` is not made of so many."""
    try:
        content = bytes.fromhex(text)
    except ValueError:
        return []
    if count < 0 or len(content) != -(-count // 8):
        return []
    return [bool(bit) for bit in np.unpackbits(np.frombuffer(content, dtype=np.uint8), count=count)]
