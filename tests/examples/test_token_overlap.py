"""A phrase in a reply, by its words."""

from __future__ import annotations

import pytest

from promptfed.examples.base import AnswerItem, PhraseQuestion, QuestionItem
from promptfed.examples.token_overlap import has_phrase


@pytest.mark.parametrize(
    ("reply", "phrase", "is_there"),
    [
        ("You need Fine tweezers.", "fine tweezers", True),
        ("tweezers that are fine", "fine tweezers", False),
        ("fine, tweezers", "fine tweezers", True),
        ("undefine tweezers", "fine tweezers", False),
        ("anything", "", False),
        ("", "word", False),
    ],
)
def test_a_phrase_is_its_words_in_a_row(reply: str, phrase: str, is_there: bool) -> None:
    assert has_phrase(reply, phrase) is is_there


def test_each_kind_of_question_has_its_rule() -> None:
    assert QuestionItem("2 + 2?", answer="#### 4").is_answered("so the answer is 4.0")
    assert not QuestionItem("who?", answer="Ada").is_answered("it was Ada, they say")
    assert PhraseQuestion("who?", answer="Ada").is_answered("it was Ada, they say")
    assert AnswerItem("2 + 2?", answer="#### 4", has_final=True).is_answered("4")
