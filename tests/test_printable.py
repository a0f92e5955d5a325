"""Text from outside is shown as it is, and moves neither terminal nor figure."""

from __future__ import annotations

import io
import os

import pytest
from rich.console import Console

from promptfed.printable import figure_text, is_printable, plain_markup, printable, without_password


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("red panda", "red panda"),
        ("café 熊猫 🐼 बिल्ली", "café 熊猫 🐼 बिल्ली"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("two\nlines\ttab", "two\\x0alines\\x09tab"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("chien \udce9", "chien \\xe9"),
        ("\u2028", "\\u2028"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert is_printable(text) == (text == shown)


def test_printable_cuts_after_escaping() -> None:
    assert printable("x" * 300, 10) == "x" * 9 + "…"
    assert len(printable("\x1b" * 300, 20)) == 20
    assert printable("short", 5) == "short"


def test_names_of_files_that_are_not_utf8() -> None:
    assert printable(os.fsdecode(b"chien \xe9")) == "chien \\xe9"


@pytest.mark.parametrize("text", ["[red]bold[/red]", "[/b]", "a [link=x]b", "plain", "\\[x]"])
def test_markup_shows_as_it_is(text: str) -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(plain_markup(text))
    assert out.getvalue().strip() == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000/#/experiments/1", "http://***@host:5000/#/experiments/1"),
        (
            "mlflow ui --backend-store-uri postgresql://u:p@ss@db/x",
            "mlflow ui --backend-store-uri postgresql://***@db/x",
        ),
        (
            "no route to 'https://token@host/a' and http://host/b@c",
            "no route to 'https://***@host/a' and http://host/b@c",
        ),
    ],
)
def test_addresses_are_shown_without_their_passwords(text: str, shown: str) -> None:
    assert without_password(text) == without_password(shown) == shown


def test_figure_text_is_no_formula() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure()
    figure.text(0, 0, figure_text(r"$\bad$ price $5"))
    figure.savefig(io.BytesIO(), format="png")
    assert figure_text("$5") == r"\$5"
