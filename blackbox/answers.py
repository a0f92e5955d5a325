"""Is a free answer right? Exact match of the final answer, as GSM8K is scored."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(
    r"""(?<![\w.])              # not inside a word or a longer number; "5-3" holds 5 and 3
    (?P<sign>[-\u2212]?)[$\u20ac\u00a3]?(?P<inner>-?)
    (?P<whole>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+|(?=\.[0-9]))
    (?P<rest>\.[0-9]+|:[0-9]{2}(?![0-9])|/[0-9]+(?![0-9]))?""",
    re.VERBOSE,
)
_SAID = re.compile(r"\banswer\b(?:\s+is|\s+would\s+be|\s*:|\s*=)\s*", re.IGNORECASE)
LONGEST = 40
"""Digits of a number that is taken for one; more are a model that cannot stop."""


def final_answer(text: str) -> str:
    """What a solution ends with, as it is compared with others.

    After the first "####", else after the last "answer is" or "answer:": the first number there, or where that line is
    an equation, what it comes to. Without such a mark, or with no number behind it, the last number of all; without
    numbers, what follows the mark, or else the last line. Numbers have no commas, currency or percent signs, units,
    leading or trailing zeros; fractions are reduced, times (7:30) stay as they are.
    """
    head, mark, tail = text.partition("####")
    if not mark:
        said = list(_SAID.finditer(text))
        tail = text[said[-1].end() :] if said else ""
    marked = next((line for line in tail.splitlines() if line.strip()), "")
    numbers = _numbers(marked.rpartition("=")[2] or marked)
    if numbers:
        return numbers[0]
    if marked:
        return _word(marked)
    numbers = _numbers(head)
    if numbers:
        return numbers[-1]
    lines = [line for line in head.splitlines() if line.strip()]
    return _word(lines[-1]) if lines else ""


def is_right(said: str, answer: str) -> bool:
    """Whether what was ``said`` ends with the same answer as the reference solution ``answer``."""
    return final_answer(said) == final_answer(answer) != ""


def _word(line: str) -> str:
    """An answer in words, without the marks around it."""
    return " ".join(line.split()).strip(" .!:;,*\"'").lower()


def _numbers(text: str) -> list[str]:
    return [_plain(found) for found in _NUMBER.finditer(text)]


def _plain(found: re.Match[str]) -> str:
    whole, rest = found["whole"].replace(",", ""), found["rest"] or ""
    sign = "-" if found["sign"] or found["inner"] else ""
    if rest.startswith(":") or len(whole + rest) > LONGEST:
        return sign + whole + rest
    if rest.startswith("/"):
        below = int(rest[1:])
        return _decimal(Fraction(int(whole), below), sign) if below else sign + whole + rest
    return _decimal(Fraction(f"{whole or '0'}{rest}"), sign)


def _decimal(value: Fraction, sign: str) -> str:
    """``value`` with as many decimals as it has, or as a fraction if they never end."""
    below, places = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while below % prime == 0:
            below, count = below // prime, count + 1
        places = max(places, count)
    if below > 1:
        plain = str(value)
    else:
        digits = str(value.numerator * 10**places // value.denominator).rjust(places + 1, "0")
        plain = f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return plain if value == 0 else sign + plain
