"""How many texts a client labels itself, by how far the federation has got."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

Curve = Literal["curriculum", "fixed"]


def pseudo_label_count(curve: Curve, k: int, pool: int, finished: int, every: int = 1) -> int:
    """Return how many of a client's texts have a pseudo-label after ``finished`` rounds (FeS: arXiv 2212.05974).

    "fixed": k texts, as soon as a round is finished. "curriculum": ``floor(pool * k/100 * finished/every)``, k percent
    more of the pool each time, computed in whole numbers. Never more than the pool; none before the first round, when
    the prompt has learnt nothing.

    Args:
        curve: The rule.
        k: Texts, or percent of the pool.
        pool: How many texts there are to label.
        finished: Rounds before this one.
        every: Rounds between two labellings.
    """
    if finished <= 0:
        return 0
    return min(pool, k if curve == "fixed" else pool * k * finished // (100 * every))


def last_labelling(round: int, every: int) -> int:
    """Return the round, at most ``round``, at whose start texts were labelled last; every ``every`` rounds from 1."""
    return round - (round - 1) % every


def confident(
    top: Sequence[float], labels: Sequence[int], count: int, threshold: float, most: int | None = None
) -> list[int]:
    """Return the ``count`` places with the largest probability above ``threshold``, largest first.

    Of equal ones, the first.

    Args:
        top: The probability of each place's guessed class.
        labels: That class.
        count: How many to return, if there are so many.
        threshold: A probability up to this one does not count.
        most: Places of one class at most; None: any number.
    """
    choice, counts = list[int](), Counter[int]()
    for place in sorted(range(len(top)), key=lambda place: -top[place]):
        if len(choice) < count and top[place] > threshold and (most is None or counts[labels[place]] < most):
            choice.append(place)
            counts[labels[place]] += 1
    return choice
