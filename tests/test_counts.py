from __future__ import annotations

import pytest

from promptfed.counts import number_of


@pytest.mark.parametrize(("number", "words"), [(1, "1 round"), (2, "2 rounds"), (1500, "1,500 rounds")])
def test_one_has_no_s(number: int, words: str) -> None:
    assert number_of("round", number) == words
