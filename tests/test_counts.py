from __future__ import annotations

import pytest

from promptfed.counts import number_of, number_or_dash


@pytest.mark.parametrize(("number", "words"), [(1, "1 round"), (2, "2 rounds"), (1500, "1,500 rounds")])
def test_one_has_no_s(number: int, words: str) -> None:
    assert number_of("round", number) == words


def test_an_unknown_number_is_a_dash() -> None:
    assert [number_or_dash(value, 2) for value in (0.126, float("nan"), float("inf"))] == ["0.13", "-", "-"]
