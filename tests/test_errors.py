"""The text of an error is one line without control characters, whatever the names in it are."""

from __future__ import annotations

import errno
import pickle

import pytest

from promptfed.errors import (
    LONGEST_ERROR,
    BudgetExhausted,
    BundleError,
    ConfigError,
    DataError,
    DiskError,
    PromptFedError,
    RunError,
    unknown_name,
)
from promptfed.printable import is_printable


@pytest.mark.parametrize("kind", [PromptFedError, ConfigError, DataError, RunError, BudgetExhausted])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("bundle 'a' is damaged", "bundle 'a' is damaged"),
        ("class '\x1b[2J\x1b]0;owned\x07'", r"class '\x1b[2J\x1b]0;owned\x07'"),
        ("file '\u202egnp.exe'", r"file '\u202egnp.exe'"),
        ("one\ntwo\r\nthree\u2028four", "one two three four"),
        ("熊猫 é 🐼 a  b", "熊猫 é 🐼 a  b"),
    ],
)
def test_an_error_is_one_line_that_moves_no_terminal(kind, text, line):
    assert str(kind(text)) == line
    assert is_printable(str(kind(text)))
    assert kind(text).args == (text,)
    assert str(pickle.loads(pickle.dumps(kind(text)))) == line


def test_a_long_error_is_cut_in_its_middle():
    line = str(BundleError("bundle 'a': " + "x" * 100_000 + "; export it again"))
    assert line.startswith("bundle 'a': xxx")
    assert line.endswith("xxx; export it again")
    assert " [...] " in line
    assert len(line) == LONGEST_ERROR + 7


def test_a_disk_error_shows_the_name_of_its_file():
    assert (
        str(DiskError(errno.ENOSPC, "No space left", "runs/\x1b[31mx")) == r"cannot write runs/\x1b[31mx: No space left"
    )


def test_an_unknown_name_is_shown_and_not_obeyed():
    assert str(unknown_name("method", "\x1b[2J\u202e", ["a"])) == r"unknown method '\x1b[2J\u202e'. Known: a."


def test_of_many_names_those_are_listed_that_are_like_the_unknown_one():
    known = [f"name{k}" for k in range(80)] + ["promptfl", "promptfolio"]
    said = str(unknown_name("method", "promptfll", known))
    assert said.startswith("unknown method 'promptfll'. Did you mean 'promptfl'? Known: promptfl, promptfolio, ")
    assert said.endswith(" and 74 more.")
    assert str(unknown_name("method", "zzz", known)).count("name") == 80  # none is near


def test_no_error_is_empty_or_fails_itself():
    assert str(PromptFedError()) == ""
    assert str(PromptFedError("a", 1)) == "('a', 1)"
