"""Owners that answer requests with opaque numbers and scores, and the broker that asks some of them.

A request is a message of bytes, and so is an answer: what crosses between them is counted, and can be looked at.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from promptfed.retrieval.index import Bm25, Cosine, best
from promptfed.retrieval.merging import Hit

BM25, COSINE = "bm25", "cosine"
INDICES = (BM25, COSINE)
SCORE_DIGITS = 6


@dataclass(frozen=True)
class Query:
    """A request as a broker holds it: its text, and its vector of the encoder that all parties share."""

    text: str
    vector: np.ndarray

    def message(self, index: str, count: int, *, as_vector: bool = False) -> bytes:
        """Return what an engine is sent.

        Args:
            index: The index that it searches.
            count: How many hits it lists.
            as_vector: Send the vector in the place of the text, for the cosine index.
        """
        if as_vector:
            asked = {"vector": base64.b64encode(self.vector.astype("<f4").tobytes()).decode()}
        else:
            asked = {"request": self.text}
        return json.dumps({**asked, "index": index, "count": count}).encode()


class Engine:
    """One owner's documents and indices.

    Args:
        name: Its public name.
        documents: Its texts, which stay here.
        vectors: The encoder's vector of each document.
        secret: What opaque numbers of documents are made of; the owner's own.
        snippets: Words of a document that an answer shows; 0: none, and no text leaves the owner.
    """

    def __init__(
        self, name: str, documents: Sequence[str], vectors: np.ndarray, secret: str, snippets: int = 0
    ) -> None:
        self.name, self._documents, self._snippets = name, documents, snippets
        self.cosine = Cosine(vectors)
        ids = [hashlib.sha256(f"{secret}:{k}".encode()).hexdigest()[:12] for k in range(len(documents))]
        self._ids, self._places = ids, {opaque: k for k, opaque in enumerate(ids)}

    @cached_property
    def bm25(self) -> Bm25:
        """The index of its words, which is made when it is first asked for."""
        return Bm25(self._documents)

    def scores(self, query: Query, index: str) -> np.ndarray:
        """Return the score of each document."""
        return self.bm25.scores(query.text) if index == BM25 else self.cosine.scores(query.vector)

    def answer(self, message: bytes, encode: Mapping[str, np.ndarray]) -> bytes:
        """Return the hits of a request, best first: opaque numbers, scores, and ``snippets`` words.

        Args:
            message: What ``Query.message`` made.
            encode: Text -> its vector, for a request that comes as a text.
        """
        asked = json.loads(message)
        if "vector" in asked:
            query = Query("", np.frombuffer(base64.b64decode(asked["vector"]), dtype="<f4"))
        else:
            query = Query(asked["request"], encode[asked["request"]])
        scores = self.scores(query, asked["index"])
        hits = []
        for place in best(scores, asked["count"]):
            if asked["index"] == BM25 and scores[place] <= 0:
                break  # no word of the request is in the rest
            hit = [self._ids[place], round(float(scores[place]), SCORE_DIGITS)]
            hits.append([*hit, " ".join(self._documents[place].split()[: self._snippets])] if self._snippets else hit)
        return json.dumps({"hits": hits}).encode()

    def place(self, opaque: str) -> int:
        """Return the document that an opaque number stands for: the owner knows it, and who evaluates."""
        return self._places[opaque]


@dataclass(frozen=True)
class Reply:
    """What an engine answered: its hits, and bytes both ways."""

    hits: tuple[Hit, ...]
    sent: int
    received: int


def ask(engine: Engine, number: int, query: Query, index: str, count: int, *, as_vector: bool = False) -> Reply:
    """Send ``query`` to engine ``number`` and read its answer."""
    message = query.message(index, count, as_vector=as_vector)
    answer = engine.answer(message, {query.text: query.vector})
    hits = [Hit(number, engine.place(opaque), float(score)) for opaque, score, *_ in json.loads(answer)["hits"]]
    return Reply(tuple(hits), len(message), len(answer))
