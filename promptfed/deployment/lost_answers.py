"""Answers that got lost on their way to the server, and how it finds out without a limit on the sites' work.

A node answers one message after the other. So a site that answers a later question has answered the earlier one, or
never will: its process was killed and started again, or Flower could not deliver the answer, and dropped it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from promptfed.deployment.messages import Message

QUIET_SECONDS = 120.0
"""Seconds without an answer after which a site is asked whether it is done; each time it is asked later."""
LONGEST_QUIET = 1800.0
GRACE = 1 / 12
"""The share of ``QUIET_SECONDS`` that an answer has to turn up after the later one."""


class Ping(Message):
    """Ask a site whether it is done with all that it was asked before."""


class PingAnswer(Message):
    """The site is done with all that it was asked before."""


@dataclass
class _Question:
    """When it was first seen, when to ping next, how long to wait after that, and when the site was seen to be done."""

    start: float
    next: float
    wait: float
    end: float | None = None


class LostAnswers:
    """Looks after the questions that have no answer so far.

    Args:
        ping: Sends a ``Ping`` to a node and returns the identity of the message; None if it could not be sent.
        on_wait: Is told the identity of a question and for how many seconds it has been without an answer, when its
            site is pinged.
        quiet: Seconds before the first ping.
    """

    def __init__(
        self, ping: Callable[[int], str | None], on_wait: Callable[[str, float], None], quiet: float = QUIET_SECONDS
    ) -> None:
        self._ping, self._on_wait, self._quiet = ping, on_wait, quiet
        self._questions: dict[str, _Question] = {}
        self._pings: dict[str, str] = {}

    @property
    def pings(self) -> list[str]:
        """The identities of the pings that have no answer so far."""
        return list(self._pings)

    def take(self, identity: str, is_answer: bool) -> bool:
        """Take a message if it is for a ping: note that its site is done if it is an answer. Return whether it is."""
        if identity not in self._pings:
            return False
        question = self._questions.get(self._pings.pop(identity))
        if question is not None and is_answer and question.end is None:
            question.end = time.monotonic()
        return True

    def look(self, pending: Mapping[str, int]) -> list[str]:
        """Ping the nodes of questions that are quiet for long, and return the questions whose answers are lost.

        Args:
            pending: The identity of a question -> the node that it was sent to, for all without an answer.
        """
        now, lost = time.monotonic(), []
        self._questions = {identity: each for identity, each in self._questions.items() if identity in pending}
        self._pings = {ping: identity for ping, identity in self._pings.items() if identity in pending}
        for identity, node in pending.items():
            question = self._questions.setdefault(identity, _Question(now, now + self._quiet, self._quiet))
            if question.end is not None:
                if now - question.end >= GRACE * self._quiet:
                    lost.append(identity)
            elif now >= question.next:
                if (ping := self._ping(node)) is not None:
                    self._pings[ping] = identity
                question.wait = min(2 * question.wait, LONGEST_QUIET)
                question.next = now + question.wait
                self._on_wait(identity, now - question.start)
        return lost
