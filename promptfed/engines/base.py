"""Where clients' work runs. An engine knows jobs and replies, and nothing of methods or aggregators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from promptfed.types import Job, Reply

OnReply = Callable[[Reply], None]
ShouldStop = Callable[[], bool]


def never() -> bool:
    """The default for ``should_stop``."""
    return False


class Engine(ABC):
    """Runs the jobs of one round."""

    @abstractmethod
    def run_round(
        self, jobs: Sequence[Job], on_reply: OnReply | None = None, should_stop: ShouldStop = never
    ) -> list[Reply]:
        """Replies sorted by client id. ``on_reply`` is called in this process as each arrives.

        When ``should_stop()`` turns true no further job is begun, and the replies so far are returned.
        """
