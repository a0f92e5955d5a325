"""Where clients' work runs. An engine knows jobs and replies, and nothing of methods or aggregators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from promptfed.types import Job, Reply

OnReply = Callable[[Reply], None]
ShouldStop = Callable[[], bool]
LATE = "late"
"""The failure of a client that went past its own limit or the round's."""


def never() -> bool:
    """The default for ``should_stop``."""
    return False


class Engine(ABC):
    """Runs the jobs of one round."""

    builds_from_config: bool = False
    """Whether its processes make task and model anew from the run's options: what was given by value is not theirs."""

    @abstractmethod
    def run_round(
        self,
        jobs: Sequence[Job],
        on_reply: OnReply | None = None,
        should_stop: ShouldStop = never,
        seconds: float | None = None,
    ) -> list[Reply]:
        """One reply for each job, sorted by client id. ``on_reply`` is called in this process as each arrives.

        A client that raises, drops out or is late gets a reply with a ``failure``: it costs its own update and no
        more. The round is closed after ``seconds``: who has not replied by then is late. When ``should_stop()`` turns
        true no further job is begun, and the replies so far are returned. Raises BudgetExhausted or OracleError as the
        worker does: they are no client's fault.
        """

    def verify_frozen(self) -> None:  # noqa: B027 (an engine without models elsewhere has nothing to check)
        """Raises BackboneError if a model that was loaded for this engine's work is not what was loaded."""

    def close(self) -> None:  # noqa: B027 (nor to end)
        """End what the engine started; it can do no more work."""
