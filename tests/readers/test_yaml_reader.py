import time

import pytest
import yaml

from promptfed.config import RunConfig
from promptfed.errors import FormatError
from promptfed.readers.yaml_reader import parse_yaml, read_yaml_file

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: [1, 2.5, true, ~, 'x y']\nc: {d: }",
        "",
        "x: &x {p: 1}\ny: {<<: *x, q: 2}\nz: [*x, *x]",
        "{2: one, 2.5: half, true: yes}",
        "text: |\n  two\n  lines\n",
        RunConfig().to_yaml(),
        "0x1F",
        "café: 日本",
    ],
)
def test_plain_yaml_is_what_pyyaml_says(text):
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["2026-01-01", "2026-13-45", "2026-01-01 10:00:00"])
def test_dates_are_text(text):
    assert parse_yaml(text) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "more than 100,000 values, aliases"),
        ("&a [*a]", "an anchor holds itself"),
        ("a: &a {b: {c: *a}}", "an anchor holds itself"),
        ("[" * 2000 + "]" * 2000, "nest"),
        ("{a: " * 2000, "nested"),
        ("- " * 5000, "nested deeper than 32"),
        ("a: 1\nb: 2\na: 3", "the key 'a' is there twice at line 3"),
        ("{x: {y: 1, y: 1}}", "the key 'y' is there twice"),
        ("9" * 5000, "5,000 characters"),
        ("a: 0x" + "f" * 40, "beyond 64 bits"),
        ("a: 18446744073709551616", "beyond 64 bits"),
        (".inf", "not a finite number"),
        ("lr: 1.0e+400", "not a finite number"),
        ("[.nan]", "not a finite number"),
        ('"a\\0b"', "NUL"),
        ("a\0b", "NUL"),
        ("x: \udce9", "surrogate"),
        ("!!python/object/apply:os.system [id]", "tag 'python/object/apply:os.system'"),
        ("!!set {a, b}", "tag 'set'"),
        ("!!binary aGk=", "tag 'binary'"),
        ("!mine 3", "tag '!mine'"),
        ("{1: one, true: yes}", "the key 'True' is there twice"),
        ("? [1, 2]\n: 3", "a key is a list"),
        ("*nobody", "undefined alias"),
        ("a: b: c", "line 1, column"),
        ("'open", "line 1, column"),
        ("a: 1\n---\nb: 2", "single document"),
        ("[" + "a, " * 200_000 + "]", "more than 100,000 values"),
        ("#" * 1_000_001, "at most 1,000,000"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_in_one_line(text, reason):
    start = time.monotonic()
    with pytest.raises(FormatError, match=reason) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 350
    assert time.monotonic() - start < 5


def test_a_config_is_utf8_whatever_the_locale_says(tmp_path):
    path = tmp_path / "c.yaml"
    for content in ("data: été", "\ufeffdata: été"):
        path.write_bytes(content.encode())
        assert read_yaml_file(path) == {"data": "été"}
    path.write_bytes("data: été".encode("utf-16"))
    assert read_yaml_file(path) == {"data": "été"}
    path.write_bytes("data: été".encode("latin-1"))
    with pytest.raises(FormatError, match="not UTF-8: byte 0xe9 at place 6"):
        read_yaml_file(path)
