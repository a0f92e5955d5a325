"""Records survive the way through a tensor, and what is no record of the schema is refused with its reason."""

from __future__ import annotations

import json

import pytest
import torch

from promptfed.records.record import (
    LONGEST_LINE,
    MOST_RECORDS,
    NO_RECORDS,
    Record,
    RecordSchema,
    lines_of,
    parsed,
    readable,
    records_tensor,
)

SCHEMA = RecordSchema(texts={"when": 40, "how": 30}, most_characters=50)
RECORDS = [
    Record("weather", {"when": "The user asks about rain."}, support=3),
    Record("übersetzer", {"when": "Wörter auf 日本語", "how": "Sprache"}),
    Record("music", words=("song", "play"), counts=(3, 1), support=9, clients=4),
]


def test_records_come_back_from_their_bytes():
    tensor = records_tensor(RECORDS)
    assert tensor.dtype == torch.uint8
    assert tensor.dim() == 1
    assert [parsed(line, SCHEMA) for line in lines_of(tensor)] == RECORDS
    assert len(tensor) == sum(len(record.line().encode()) + 1 for record in RECORDS)


def test_no_records_are_no_bytes():
    assert torch.equal(records_tensor([]), NO_RECORDS)
    assert lines_of(NO_RECORDS) == []


def test_default_values_take_no_bytes():
    assert RECORDS[1].line() == '{"key":"übersetzer","when":"Wörter auf 日本語","how":"Sprache","support":1}'
    assert Record("a", words=("x", "y"), counts=(1, 1)).line() == '{"key":"a","words":"x y","support":1}'


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"key": "a"}, "nothing about its key"),
        ({"key": "", "when": "x"}, "no text"),
        ({"when": "x"}, "no text"),
        ({"key": "a", "when": 7}, "no text"),
        ({"key": ["a"], "when": "x"}, "no text"),
        ({"key": "a", "when": "x" * 41}, "'when' of 41 characters, where 40"),
        ({"key": "a", "when": "x" * 40, "how": "y" * 11}, "51 characters, where 50"),
        ({"key": "a", "words": " ".join(f"w{k}" for k in range(30))}, "words of 109 characters, where 50"),
        ({"key": "a", "words": "x" * 33}, "a word of more than 32"),
        ({"key": "a", "words": "x x"}, "a word twice"),
        ({"key": "a", "words": "x y", "counts": [1]}, "counts that do not go"),
        ({"key": "a", "words": "x", "counts": [0]}, "'counts' that is no whole number"),
        ({"key": "a", "when": "x", "support": -1}, "'support' that is no whole number"),
        ({"key": "a", "when": "x", "support": True}, "'support' that is no whole number"),
        ({"key": "a", "when": "x", "clients": 1.5}, "'clients' that is no whole number"),
        ({"key": "a", "when": "x", "tool_call": "y"}, "a field 'tool_call'"),
        (["a", "b"], "no object"),
    ],
)
def test_what_is_no_record_is_refused(fields, why):
    with pytest.raises(ValueError, match=why.replace("(", r"\(")):
        parsed(json.dumps(fields), SCHEMA)


def test_lines_that_are_too_long_or_no_json_are_refused():
    with pytest.raises(ValueError, match="no JSON"):
        parsed("{", SCHEMA)
    with pytest.raises(ValueError, match="no JSON"):
        parsed("[" * 10_000, SCHEMA)
    with pytest.raises(ValueError, match="a line of"):
        parsed("x" * (LONGEST_LINE + 1), SCHEMA)


def test_a_tensor_of_something_else_holds_no_records():
    with pytest.raises(ValueError, match="bytes in one row"):
        lines_of(torch.zeros(3))
    with pytest.raises(ValueError, match="utf-8"):
        lines_of(torch.full((3,), 255, dtype=torch.uint8))
    with pytest.raises(ValueError, match=f"where {MOST_RECORDS} are allowed"):
        lines_of(torch.full((MOST_RECORDS + 1,), 10, dtype=torch.uint8))


def test_people_read_what_is_said_and_by_how_many():
    assert readable(RECORDS, words=1).splitlines() == [
        "weather: The user asks about rain. (1 client, 3 examples)",
        "übersetzer: Wörter auf 日本語 Sprache (1 client, 1 examples)",
        "music: song, ... (4 clients, 9 examples)",
    ]
