"""Numbers with their noun."""

from __future__ import annotations


def number_of(noun: str, number: int) -> str:
    """Return ``1 round`` or ``20 rounds``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
