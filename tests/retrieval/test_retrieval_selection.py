"""Which engines are asked: CORI against ten lines of its paper, centroids, descriptors."""

from __future__ import annotations

from math import log

import numpy as np

from promptfed.retrieval.index import Bm25, TermStatistics, words_of
from promptfed.retrieval.selection import centroid, cori, descriptor
from promptfed.tasks.sources.retrieval import load_collection


def reference(words, engines):
    mean = sum(e.words for e in engines) / len(engines)
    beliefs = []
    for e in engines:
        terms = []
        for word in words:
            cf = sum(word in other.document_frequency for other in engines)
            if cf:
                df = e.document_frequency.get(word, 0)
                t = df / (df + 50 + 150 * e.words / mean)
                terms.append(0.4 + 0.6 * t * log((len(engines) + 0.5) / cf) / log(len(engines) + 1.0))
        beliefs.append(sum(terms) / len(terms) if terms else 0.4)
    return beliefs


def test_cori_agrees_with_ten_lines_of_its_paper():
    collection = load_collection("texts:search")
    engines = [Bm25(corpus.documents).statistics for corpus in collection.corpora]
    for request in collection.requests:
        words = words_of(request.text)
        np.testing.assert_allclose(cori(words, engines), reference(words, engines), atol=1e-9, rtol=0)


def test_cori_prefers_the_engine_with_the_rarer_word_and_believes_alike_in_the_dark():
    engines = [TermStatistics({"tide": 5, "bread": 1}, 100), TermStatistics({"bread": 9}, 100)]
    assert cori(["tide"], engines)[0] > cori(["tide"], engines)[1] == 0.4
    assert cori(["bread"], engines)[1] > cori(["bread"], engines)[0]
    assert cori(["unheard"], engines).tolist() == [0.4, 0.4]
    assert cori([], engines).tolist() == [0.4, 0.4]


def test_centroids_and_descriptors():
    request = np.array([1.0, 0.0])
    np.testing.assert_allclose(centroid(request, np.array([[2.0, 0.0], [1.0, 1.0]])), [1, np.sqrt(0.5)])
    np.testing.assert_allclose(descriptor(request, np.array([[2.0, 9.0, 0.5], [0.0, 1.0, -1.0]])), [2.5, -1.0])
