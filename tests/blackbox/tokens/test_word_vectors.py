from __future__ import annotations

import pytest
import torch

from promptfed.blackbox.tokens.word_vectors import word_vectors


@pytest.mark.parametrize("embedder", ["hashing", pytest.param("minilm", marks=pytest.mark.slow)])
def test_vectors_are_of_unit_length_and_the_blank_is_zero(embedder):
    found = word_vectors(["movie", "", "film", "at all"], embedder)
    torch.testing.assert_close(
        found.norm(dim=1), torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64), atol=1e-4, rtol=0
    )
    assert torch.equal(word_vectors(["film"], embedder)[0], found[2])


def test_words_that_are_spelt_alike_are_near():
    a, b, c = word_vectors(["classify", "classifies", "movie"], "hashing")
    assert a @ b > 0.3 > abs(a @ c)


@pytest.mark.slow
def test_the_encoder_knows_what_words_mean():
    film, movie, bank = word_vectors(["film", "movie", "bank"], "minilm")
    assert film @ movie > film @ bank + 0.2
