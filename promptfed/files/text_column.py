"""Many short texts as two arrays, so that a file of arrays can hold them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray


def packed_texts(texts: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the UTF-8 bytes of ``texts`` one after the other, and where each ends, with a 0 before the first."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    ends = np.array([0, *accumulate(map(len, encoded))], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), ends


def packed_text(content: NDArray[np.uint8], ends: NDArray[np.int64], number: int) -> str:
    """Return text ``number`` of what ``packed_texts`` made."""
    return bytes(content[ends[number] : ends[number + 1]]).decode("utf-8", "surrogateescape")


def are_ends(ends: NDArray[np.int64], parts: int, total: int) -> bool:
    """Return whether ``ends`` cut ``total`` things into ``parts``, one after the other."""
    return (
        ends.shape == (parts + 1,) and int(ends[0]) == 0 and int(ends[-1]) == total and bool((np.diff(ends) >= 0).all())
    )
