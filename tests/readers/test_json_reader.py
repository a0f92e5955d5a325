import json
import math
import tracemalloc

import pytest

from promptfed.errors import FormatError
from promptfed.readers.json_reader import JsonLimits, check_integer, parse_json, read_json


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(2**63), 2**64 - 1, 1.5e-300, "", 'é😀[{,\\"', [], {}, {"a": [1, {"b": None}]}, ["[" * 999]],
)
def test_json_is_what_json_says(value):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert parse_json(text) == value
        assert parse_json(text.encode()) == value
        assert parse_json(b"\xef\xbb\xbf" + text.encode()) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "deeper than 64"),
        ('{"a":' * 2000 + "1" + "}" * 2000, "deeper than 64"),
        ('["' + '\\"' * 500 + '", ' + "[" * 65 + "]" * 65 + "]", "deeper than 64"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' twice"),
        ('[{"x": {"": 0, "": 0}}]', "key '' twice"),
        ("9" * 5000, "5,000 digits"),
        ("-" + "9" * 30, "beyond 64 bits"),
        ("18446744073709551616", "beyond 64 bits"),
        ("1e400", "too large"),
        ("-1e999", "too large"),
        ("0." + "1" * 5000, "at most 400"),
        ("NaN", "NaN is not a finite"),
        ('{"loss": -Infinity}', "-Infinity is not a finite"),
        ('"\\ud800"', "half of a surrogate"),
        ('{"\\udfff": 1}', "half of a surrogate"),
        ('["a\\u0000b"]', "NUL"),
        (b'{"a": "\xe9"}', "not UTF-8: byte 0xe9 at place 7"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        ("[1, 2", "line 1, column"),
        ("", "line 1, column 1"),
        ('"a\nb"', "control character"),
        ("[" + "[]," * 500_000 + "0]", "at most 500,000"),
        ('["' * 5, "line 1"),
        (b" " * 16_000_001, "at most 16,000,000"),
        ('"' * 3_000_000, "values|Extra data"),
    ],
)
def test_what_is_no_plain_json_is_refused_in_one_line(text, reason):
    with pytest.raises(FormatError, match=reason) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_infinities_are_read_where_they_are_asked_for_but_not_overflowing_numbers():
    assert math.isnan(parse_json("NaN", finite=False))
    assert parse_json("[-Infinity]", finite=False) == [-math.inf]
    with pytest.raises(FormatError):
        parse_json("1e400", finite=False)


def test_any_string_is_read_where_it_is_asked_for():
    assert parse_json('["\\u0000", "\\ud800"]', any_strings=True) == ["\0", "\ud800"]


def test_brackets_and_commas_inside_strings_count_for_nothing():
    value = ["[{," * 100, '\\"' * 100, "\\"]
    assert parse_json(json.dumps(value), JsonLimits(depth=1, values=4)) == value
    with pytest.raises(FormatError, match="holds 5 values"):
        parse_json("[1,2,3,4]", JsonLimits(depth=1, values=4))


def test_memory_stays_bounded_for_the_costliest_text():
    text = "[" + '{"a":{}},' * 16_000 + "0]"
    tracemalloc.start()
    parse_json(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_file_is_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    path.write_text("{")
    with pytest.raises(FormatError, match=r"x\.json' is not usable JSON"):
        read_json(path)


def test_integers_of_64_bits():
    assert check_integer(2**64 - 1) == 2**64 - 1
    for value in (2**64, -(2**63) - 1, 10**400):
        with pytest.raises(FormatError, match="beyond 64 bits"):
            check_integer(value)
