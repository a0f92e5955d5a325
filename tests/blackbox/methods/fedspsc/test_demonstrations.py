"""Worked examples on their way to the server."""

from __future__ import annotations

import pytest

from promptfed.blackbox.methods.fedspsc.demonstrations import (
    DISCLAIMER,
    Demonstration,
    Demonstrations,
    packed,
    unpacked,
)
from promptfed.blackbox.text.tensors import text_of, text_tensor
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Update


def update(client, *found):
    return Update(client, PromptState({"found": text_tensor(packed(found))}), 1, 0.0, 0.0)


def shown(one):
    return f"Q: {one.question} A: {one.answer}"


def merged(updates, count=4, most=1000):
    state, _ = Demonstrations(shown, count, most).apply(NO_PROMPT, updates, NO_PROMPT)
    return text_of(state["demonstrations"])


def test_they_come_back_as_they_were():
    sent = [Demonstration("1 + 1?", "2 of it\n#### 2", 0.75), Demonstration('"ü"', "\\", 1.0)]
    assert unpacked(packed(sent)) == sent


@pytest.mark.parametrize(
    "junk", ["", "{", "[" * 10_000, "5", '{"question": "a"}', '[1, null, {"question": 3, "answer": "x"}]', '[{"a": 1}]']
)
def test_junk_is_left_out(junk):
    assert unpacked(junk) == []
    state, _ = Demonstrations(shown, 4, 100).apply(
        NO_PROMPT, [Update(0, PromptState({"found": text_tensor(junk)}), 1, 0, 0)], NO_PROMPT
    )
    assert text_of(state["demonstrations"]) == ""


def test_shares_are_bounded_and_blank_lines_go():
    [one] = unpacked('[{"question": "a\\n\\nb\\u0000", "answer": "c", "share": 1e9}]')
    assert one == Demonstration("a\nb", "c", 1.0)
    assert unpacked('[{"question": "a", "answer": "c", "share": NaN}]')[0].share == 0
    assert unpacked('[{"question": "a", "answer": "c", "share": "much"}]')[0].share == 0


def test_the_most_agreed_ones_in_a_fixed_order_each_question_once():
    one, two = Demonstration("b", "2", 0.9), Demonstration("a", "1", 0.9)
    three, again = Demonstration("c", "3", 1.0), Demonstration("c", "4", 0.95)
    sent = [update(0, one, again), update(1, two, three)]
    wanted = f"{DISCLAIMER}\n\nQ: c A: 3\n\nQ: a A: 1\n"
    assert merged(sent, count=2) == merged(sent[::-1], count=2) == wanted


def test_an_example_that_does_not_fit_makes_room_for_a_shorter_one():
    sent = [update(0, Demonstration("x" * 50, "1", 1.0), Demonstration("y", "2", 0.5))]
    assert merged(sent, most=20) == f"{DISCLAIMER}\n\nQ: y A: 2\n"
