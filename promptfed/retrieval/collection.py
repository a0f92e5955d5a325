"""What federated search is tried on: corpora that are not put together, and judged requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Corpus:
    """The documents behind one engine, which stay with its owner, and what the owner says of them in public.

    ``documents`` is empty where only the engine's grades are known.
    """

    name: str
    description: str
    documents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """A request and who answers it.

    Attributes:
        text: What somebody asks.
        grades: For each engine, how well it answers; 0 is not at all.
        origin: The engine whose users asked it.
        relevance: Engine -> document -> how well that document answers; documents that are not named do not.
        answer: Words that a document with the answer contains; empty: not known.
    """

    text: str
    grades: tuple[float, ...]
    origin: int
    relevance: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    answer: str = ""


@dataclass(frozen=True)
class Collection:
    """Corpora and requests. ``notes`` are for the user."""

    name: str
    corpora: tuple[Corpus, ...]
    requests: tuple[Request, ...]
    notes: tuple[str, ...] = ()

    @property
    def has_documents(self) -> bool:
        """Whether the engines can be asked, and not only graded."""
        return all(corpus.documents for corpus in self.corpora)


LISTED = 10
"""An engine is graded by so many of its best documents."""


def graded(relevance: Mapping[int, Mapping[int, float]], engines: int) -> tuple[float, ...]:
    """Return each engine's grade: the sum of the relevance of its ten best documents."""
    each = (sorted(relevance.get(engine, {}).values(), reverse=True)[:LISTED] for engine in range(engines))
    return tuple(float(sum(values)) for values in each)
