"""Where clients' work runs. An engine knows jobs and replies, and nothing of methods or aggregators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol, Self

from promptfed.config import RunConfig
from promptfed.errors import ConfigError
from promptfed.privacy.dpsgd import ExampleTerms
from promptfed.privacy.release import Sums
from promptfed.types import ClientData, Job, Reply

Worker = Callable[[Sequence[Job]], list[Reply]]
"""What does clients' work: one reply for each job, in the order of the jobs."""
OnReply = Callable[[Reply], None]
ShouldStop = Callable[[], bool]
LATE = "late"
"""The failure of a client that went past its own limit or the round's."""


def never() -> bool:
    """Return False: the default for ``should_stop``."""
    return False


class Malicious(Protocol):
    """Malicious clients of a simulation (``promptfed.attacks``), and what they do."""

    @property
    def clients(self) -> frozenset[int]:
        """Who they are."""
        ...

    def data(self, data: ClientData, round: int) -> ClientData:
        """Return what the client of ``data`` trains on in ``round``."""
        ...

    def replies(self, jobs: Sequence[Job], replies: Sequence[Reply]) -> list[Reply]:
        """Return what clients that worked side by side send in the place of their honest ``replies``."""
        ...


class Workplace(Protocol):
    """All that clients' work of any stage needs, loaded once in a process."""

    def worker(self, stage: str, examples: ExampleTerms | None = None) -> Worker:
        """Return what does the clients' work of ``stage``; ``examples``: how it protects single ones."""
        ...

    def verify_frozen(self) -> None:
        """Raise BackboneError if the model is not what was loaded."""
        ...


class Engine(ABC):
    """Runs the jobs of one round.

    An engine is made either for each stage of a run, in the run's own process (``for_stage``), or once for the whole
    run, because its processes load what they need (``for_run``). A class has one of the two.
    """

    builds_from_config: bool = False
    """Whether its processes make task and model anew from the run's options: what was given by value is not theirs."""
    simulates: bool = True
    """Whether all clients' data are in the hands of whoever runs it."""
    protects_examples: bool = False
    """Whether it can have clients trained with noise for each example (privacy.dp=example)."""
    sums: Sums | None = None
    """How its clients sum their changes, so that replies have no tensors; None: the changes come with the replies."""

    @classmethod  # noqa: B027 (most options go with most engines)
    def check(cls, config: RunConfig) -> None:
        """Raise ConfigError for options that do not go with this engine, and if it is not installed."""

    @classmethod
    def for_stage(cls, worker: Worker, config: RunConfig) -> Self | None:
        """Make the engine of one stage from what does its clients' work here; None: it is made for the whole run."""
        return None

    @classmethod
    def for_run(cls, build: Callable[[], Workplace], config: RunConfig) -> Self | None:
        """Make the engine of all stages; None (the default): there is one for each stage.

        ``build`` makes a workplace in whatever process it is called, and can be pickled.
        """
        return None

    def protect(self, terms: ExampleTerms) -> None:
        """Have the clients of the stage of ``terms`` trained with noise, wherever they work.

        An engine for each stage has been given what trains so, and need not be told.

        Raises:
            ConfigError: The engine cannot.
        """
        raise ConfigError(f"{type(self).__name__} does not train with noise for each example")

    def __repr__(self) -> str:
        return f"<engine {type(self).__name__}>"

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
        """Raise BackboneError if a model that was loaded for this engine's work is not what was loaded."""

    def close(self) -> None:  # noqa: B027 (nor to end)
        """End what the engine started; it can do no more work."""
