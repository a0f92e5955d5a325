"""What stands before a question that is to be answered: documents of one owner, those that a search finds, or none."""

from __future__ import annotations

from collections.abc import Sequence

from promptfed.retrieval.collection import Collection, Request
from promptfed.retrieval.index import Bm25, best, words_of
from promptfed.retrieval.merging import Answers, Hit, minmax_cori
from promptfed.retrieval.selection import cori

LISTED = 10
"""Hits of an engine that are merged."""


class Contexts:
    """Finds documents by words: each owner in its own index (BM25), a broker by CORI and its rule of merging.

    Args:
        collection: The corpora.
        documents: Documents before a question, at most.
        engines: How many a broker asks.
        words: Words of a document, at most.
    """

    def __init__(self, collection: Collection, documents: int, engines: int, words: int) -> None:
        self.collection, self.documents, self.engines, self.words = collection, documents, engines, words
        self._indices = [Bm25(corpus.documents) for corpus in collection.corpora]
        self._statistics = [index.statistics for index in self._indices]

    def find(self, engine: int, request: Request) -> list[str]:
        """Return the documents that an owner finds in its own corpus."""
        return [self._cut(hit) for hit in self._hits(engine, request)[: self.documents]]

    def search(self, request: Request) -> list[str]:
        """Return the documents that a broker gets, which asks the engines of the greatest belief (CORI)."""
        beliefs = cori(words_of(request.text), self._statistics)
        lists = {k: self._hits(k, request) for k in best(beliefs, self.engines)}
        return [self._cut(hit) for hit in minmax_cori(Answers(lists, beliefs))[: self.documents]]

    def gold(self, request: Request) -> list[str]:
        """Return the documents that were judged to answer best."""
        judged = [
            (-grade, engine, place)
            for engine, grades in request.relevance.items()
            for place, grade in grades.items()
            if grade > 0
        ]
        return [self._cut(Hit(engine, place, 0.0)) for _, engine, place in sorted(judged)[: self.documents]]

    def describe(self, request: Request) -> list[str]:
        """Return what the owner that a broker would ask first says of its corpus in public, and no document."""
        [first] = best(cori(words_of(request.text), self._statistics), 1)
        corpus = self.collection.corpora[first]
        return [corpus.description or corpus.name]

    def _hits(self, engine: int, request: Request) -> Sequence[Hit]:
        scores = self._indices[engine].scores(request.text)
        return [Hit(engine, k, float(scores[k])) for k in best(scores, LISTED) if scores[k] > 0]

    def _cut(self, hit: Hit) -> str:
        return " ".join(self.collection.corpora[hit.engine].documents[hit.document].split()[: self.words])
