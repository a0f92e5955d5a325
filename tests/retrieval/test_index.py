"""BM25 and cosines: against the formula written out, and on ties."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from promptfed.retrieval.index import Bm25, Cosine, best, words_of

TEXTS = ["The tide turns, the tide runs out.", "A bell rings.", "Bread and salt and bread", "", "the bell of the tide"]


def reference(texts, request, k1, b):
    rows = [Counter(words_of(text)) for text in texts]
    mean = sum(sum(row.values()) for row in rows) / len(rows)
    scores = []
    for row in rows:
        total = 0.0
        for word in words_of(request):
            df = sum(word in other for other in rows)
            if df:
                idf = math.log(1 + (len(rows) - df + 0.5) / (df + 0.5))
                norm = k1 * (1 - b + b * sum(row.values()) / mean)
                total += idf * row[word] * (k1 + 1) / (row[word] + norm)
        scores.append(total)
    return scores


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (2.0, 0.0)])
@pytest.mark.parametrize("request_text", ["tide", "The bell, the bell!", "bread with butter", "nothing known", ""])
def test_bm25_is_the_formula(request_text, k1, b):
    found = Bm25(TEXTS, k1, b).scores(request_text)
    np.testing.assert_allclose(found, reference(TEXTS, request_text, k1, b), atol=1e-12)


def test_the_same_text_has_another_score_in_another_corpus():
    common, rare = Bm25(["tide now", "tide then", "tide later"]), Bm25(["tide now", "bread now", "salt now"])
    assert rare.scores("tide")[0] > 2 * common.scores("tide")[0]


def test_statistics_are_counts_of_documents_and_words():
    statistics = Bm25(TEXTS).statistics
    assert statistics.words == 20
    assert statistics.document_frequency["tide"] == 2
    assert statistics.document_frequency["bread"] == 1


def test_cosines_do_not_depend_on_lengths_and_zeros_have_none():
    vectors = np.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    index = Cosine(vectors)
    np.testing.assert_allclose(index.scores(np.array([0.0, 5.0])), [0.8, 1.0, 0.0])
    np.testing.assert_allclose(index.centroid, [0.2, 0.6])


def test_of_equal_scores_the_first_is_best():
    assert best(np.array([1.0, 3.0, 3.0, 2.0]), 3) == [1, 2, 3]
    assert best(np.array([1.0]), 3) == [0]
