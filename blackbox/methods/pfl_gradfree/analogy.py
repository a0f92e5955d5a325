"""Vectors as short sums of word vectors, as in "king - man + woman", so that a mean of tokens travels as indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from promptfed.blackbox.search.base import Matrix, Vector

NONE = -1
"""In a code, for a word that is not there."""
Code = tuple[int, int, int]
"""Indices (a, b, c) of ``e_a + e_b - e_c``."""


def compose(code: Sequence[int], vectors: Matrix) -> Vector:
    """Return the unit vector ``(dim,)`` of ``e_a + e_b - e_c``; ``vectors`` ``(words, dim)``. Zeros stay zeros."""
    signs = (1.0, 1.0, -1.0)
    total = np.zeros(vectors.shape[1])
    for index, sign in zip(code, signs, strict=True):
        if index != NONE:
            total = total + sign * vectors[index]
    return _unit(total)


def decompose(target: Vector, vectors: Matrix, first: Sequence[int], words: Sequence[int]) -> Code:
    """Return the code whose vector has the greatest cosine to ``target``, found greedily.

    ``a`` is out of ``first``, then ``b``, then ``c`` out of ``words``, each left out if it brings nothing. The lower
    index wins between equals.
    """
    code = [_best([(index, NONE, NONE) for index in sorted(first)], target, vectors)[0], NONE, NONE]
    for position in (1, 2):
        remaining = sorted(set(words) - set(code))
        options = [tuple(code), *((*code[:position], index, *code[position + 1 :]) for index in remaining)]
        code = list(_best(options, target, vectors))
    return code[0], code[1], code[2]


def nearest(target: Vector, vectors: Matrix, words: Sequence[int], count: int) -> list[int]:
    """Return the ``count`` of ``words`` with the greatest cosine to ``target``, best first."""
    ordered = sorted(words)
    return [ordered[i] for i in np.argsort(-_cosines(vectors[ordered], target), kind="stable")[:count]]


def _best(options: Sequence[Sequence[int]], target: Vector, vectors: Matrix) -> Sequence[int]:
    candidates = np.stack([compose(code, vectors) for code in options])
    return options[int(np.argmax(_cosines(candidates, target)))]


def _cosines(rows: Matrix, target: Vector) -> Vector:
    """Return cosines of unit ``rows``, rounded, so that the order of summation does not decide between equals."""
    cosines: Vector = np.round(rows @ _unit(target), 9)
    return cosines


def _unit(vector: Vector) -> Vector:
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-9 else np.zeros_like(vector)
