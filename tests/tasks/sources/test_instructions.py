"""Rows with questions and answers, in the columns that common data sets have."""

from __future__ import annotations

import json

import pytest

from promptfed.errors import DataError
from promptfed.tasks.sources.instructions import InstructionColumns, instruction_rows

TURNS = [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
]  # fmt: skip


def item_of(columns=None, **row):
    cells = {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
    ((_, _, item),) = instruction_rows({"": [("x.jsonl:1", cells)]}, columns or InstructionColumns())
    return item


@pytest.mark.parametrize(
    ("row", "question", "answer"),
    [
        ({"question": "2 + 2?", "answer": " 4 "}, "2 + 2?", "4"),
        ({"instruction": "Translate.", "input": "Katze", "output": "cat"}, "Translate.\nKatze", "cat"),
        ({"instruction": "Greet.", "input": "", "output": "hello"}, "Greet.", "hello"),
        ({"prompt": "Go on", "completion": "now"}, "Go on", "now"),
        ({"prompt": "Go on", "response": "then"}, "Go on", "then"),
        ({"messages": TURNS}, "System: Be brief.\nUser: 2 + 2?", "4"),
        ({"messages": TURNS[1:]}, "2 + 2?", "4"),
        ({"messages": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "a", "b"),
    ],
)  # fmt: skip
def test_columns_of_common_data_sets(row, question, answer):
    item = item_of(**row)
    assert (item.text, item.answer) == (question, answer)


def test_a_conversation_keeps_its_turns_and_columns_can_be_named():
    assert item_of(messages=TURNS).turns == (("system", "Be brief."), ("user", "2 + 2?"))
    columns = InstructionColumns("q", "a")
    assert item_of(columns, q="2 + 2?", a="4", input="of no use").text == "2 + 2?"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"text": "x", "label": "y"}, "has no question: it has text, label"),
        ({"question": "x", "label": "y"}, "has no answer: it has question, label"),
        ({"question": "x", "answer": " "}, "column 'answer' is empty"),
        ({"messages": TURNS[:2]}, "not the assistant's answer"),
        ({"messages": TURNS[2:]}, "not the assistant's answer"),
        ({"messages": "hello"}, "messages are not JSON"),
        ({"messages": {"role": "user"}}, "a JSON dict, not a list"),
        ({"messages": ["hello"]}, "is not an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "needs a role (system, user, assistant)"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "a text as its content"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_names_the_row(row, why):
    with pytest.raises(DataError) as error:
        item_of(**row)
    assert str(error.value).startswith("x.jsonl:1")
    assert why in str(error.value)
