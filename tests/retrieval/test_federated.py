"""What crosses between broker and engines: counted, readable by nobody else, and without a document's words."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from promptfed.retrieval.federated import BM25, COSINE, Engine, Query, ask
from promptfed.tasks.sources.retrieval import load_collection

RUN = 6
"""So many words of a document in a row are a quotation."""


def word_runs(text):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[k : k + RUN]) for k in range(len(words) - RUN + 1)}


@pytest.fixture(scope="module")
def collection():
    return load_collection("texts:search")


def engines(collection, snippets=0):
    draw = np.random.default_rng(3)
    return [
        Engine(corpus.name, corpus.documents, draw.normal(size=(len(corpus.documents), 8)), corpus.name, snippets)
        for corpus in collection.corpora
    ]


def messages(collection, snippets):
    draw = np.random.default_rng(4)
    for engine in engines(collection, snippets):
        for request in collection.requests[::4]:
            query = Query(request.text, draw.normal(size=8))
            for index in (BM25, COSINE):
                yield engine.answer(query.message(index, 10), {query.text: query.vector}).decode()


def test_without_snippets_no_document_is_quoted_on_the_wire(collection):
    documents = set().union(*(word_runs(text) for corpus in collection.corpora for text in corpus.documents))
    assert len(documents) > 4000
    for message in messages(collection, 0):
        assert not word_runs(message) & documents
        assert re.fullmatch(r"[0-9a-f]{12}", json.loads(message)["hits"][0][0]) if json.loads(message)["hits"] else True
    quoted = sum(bool(word_runs(message) & documents) for message in messages(collection, 8))
    assert quoted > 100, "the sniffing finds what is there"


def test_an_answer_is_the_best_documents_and_its_bytes_are_counted(collection):
    engine = engines(collection)[0]
    query = Query("how long should a burnt finger be held under the tap", np.ones(8))
    reply = ask(engine, 5, query, BM25, 3)
    scores = engine.scores(query, BM25)
    assert [hit.document for hit in reply.hits] == np.argsort(-scores, kind="stable")[:3].tolist()
    assert [hit.engine for hit in reply.hits] == [5, 5, 5]
    assert reply.sent == len(query.message(BM25, 3))
    assert reply.received == len(engine.answer(query.message(BM25, 3), {query.text: query.vector}))
    assert ask(engine, 0, Query("zzz", np.ones(8)), BM25, 3).hits == ()


def test_a_vector_says_the_same_as_the_text_and_shows_none_of_it(collection):
    engine = engines(collection)[0]
    query = Query("a secret question", np.linspace(-1, 1, 8))
    plain, hidden = (ask(engine, 0, query, COSINE, 10, as_vector=flag) for flag in (False, True))
    assert [hit.document for hit in plain.hits] == [hit.document for hit in hidden.hits]
    assert b"secret" not in query.message(COSINE, 10, as_vector=True)
