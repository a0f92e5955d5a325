"""A tokenizer piece by piece."""

from __future__ import annotations

import pytest

from promptfed.language_models.tokens import Tokens

from ..tiny_language_models import tokenizer


@pytest.mark.parametrize(
    ("front", "at_mask", "said"),
    [
        ("Category:", False, " a"),
        ("Category:\n", False, "a"),
        ("Category: ", False, "a"),
        ("", False, "a"),
        ("it was ", True, " a"),
        ("it was", True, "a"),
        ("", True, "a"),
    ],
)
def test_a_word_has_a_space_of_its_own_where_one_belongs_to_it(
    monkeypatch: pytest.MonkeyPatch, front: str, at_mask: bool, said: str
) -> None:
    tokens = Tokens(tokenizer())
    monkeypatch.setattr(tokens, "following", lambda text: [ord(letter) for letter in text])
    assert tokens.answers(["a", ""], front, at_mask=at_mask) == [list(map(ord, said)), list(map(ord, said[:-1]))]
