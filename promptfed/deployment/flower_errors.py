"""Flower's errors in the place of an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from promptfed.printable import printable

if TYPE_CHECKING:
    from flwr.app import Message

GONE = frozenset({3, 4, 5, 8})
"""Flower's error codes for a node or a process that has ended: the question may be asked again."""
FAILED = frozenset({1, 2})
"""Flower's error codes for a process that failed. Faults of promptfed and of a method are answers, in words, and none
of these: what is left is trouble of a machine or of Flower, which may pass."""


def why(message: Message) -> str:
    """Return the last line of the reason that is not empty: of a traceback, the error itself."""
    lines = [line.strip() for line in (message.error.reason or "").splitlines() if line.strip()]
    return printable(lines[-1], 300) if lines else f"Flower's error {message.error.code}"
