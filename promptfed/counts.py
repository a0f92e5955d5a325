"""Numbers and spans of time in words."""

from __future__ import annotations

import math


def number_of(noun: str, number: int) -> str:
    """Return ``1 round`` or ``20 rounds``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def number_or_dash(value: float, digits: int) -> str:
    """Format a number; a dash for an unknown one, such as the loss of a round without updates."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def readable_age(seconds: float) -> str:
    """Format seconds as ``45 s``, ``12 min``, ``5 h``, ``9 d``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
