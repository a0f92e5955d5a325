"""Parsing of answers: the final answer of a solution (exact match, as GSM8K is scored), and the position of a word.

Scripts without blanks (Chinese, Japanese, Thai, Khmer, Lao, Burmese and others) have no borders between words: a label
or a number counts there wherever it stands.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    "\u1950-\u19df\u1a00-\u1aaf\uaa80-\uaadf"  # Tai Le, New Tai Lue, Buginese, Tai Tham, Tai Viet
    "\u1b00-\u1b7f\ua980-\ua9df"  # Balinese, Javanese
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u31ff\u3400-\u4dbf\u4e00-\u9fff"  # Chinese, Japanese
    "\ua000-\ua4cf"  # Yi
    "\uf900-\ufaff\uff66-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
"""Characters of scripts that put no blanks between words, as a part of a regular expression's class."""
_UNSPACED = re.compile(f"[{UNSPACED}]")
_HANGUL = re.compile("[\uac00-\ud7a3]")
"""Korean has blanks, but puts particles behind a word without one."""
_NUMBER = re.compile(
    rf"""(?<![^\W{UNSPACED}])(?<!\.)  # not inside a word or a longer number; "5-3" holds 5 and 3
    (?P<sign>[-\u2212]?)[$\u20ac\u00a3]?(?P<inner>-?)
    (?P<whole>[0-9]{{1,3}}(?:,[0-9]{{3}})+(?![0-9])|[0-9]+|(?=\.[0-9]))
    (?P<rest>\.[0-9]+|:[0-9]{{2}}(?![0-9])|/[0-9]+(?![0-9]))?""",
    re.VERBOSE,
)
_SAID = re.compile(r"\banswer\b(?:\s+is|\s+would\s+be|\s*:|\s*=)\s*", re.IGNORECASE)
LONGEST = 40
"""Most digits of a number; more are a model that cannot stop."""


def final_answer(text: str) -> str:
    """Return the final answer of a solution, normalised for comparison.

    After the first "####", else after the last "answer is" or "answer:": the first number there, or the result of an
    equation in that line. Without such a mark, or with no number behind it, the last number of all; without numbers,
    the text behind the mark, or else the last line. Numbers have no commas, currency or percent signs, units, leading
    or trailing zeros; fractions are reduced, times (7:30) stay as they are.
    """
    head, mark, tail = text.partition("####")
    if not mark:
        marks = list(_SAID.finditer(text))
        tail = text[marks[-1].end() :] if marks else ""
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


def is_right(reply: str, answer: str) -> bool:
    """Return whether ``reply`` ends with the same answer as the reference solution ``answer``."""
    return final_answer(reply) == final_answer(answer) != ""


def first_word(text: str, word: str) -> int | None:
    """Return the position where ``word`` first stands in ``text`` as a word of its own; None: nowhere.

    Case, width and the way accents are composed do not count.
    """
    text_form, word_form = _compared(text), _compared(word).strip()
    start = text_form.find(word_form) if word_form else -1
    while start >= 0:
        end = start + len(word_form)
        left, right = text_form[start - 1 : start], text_form[end : end + 1]
        is_suffixed = bool(_HANGUL.match(word_form[-1]) and _HANGUL.match(right))
        if not (_joined(left, word_form[0]) or (_joined(word_form[-1], right) and not is_suffixed)):
            return start
        start = text_form.find(word_form, start + 1)
    return None


def _compared(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _joined(left: str, right: str) -> bool:
    """Return whether two neighbours are of one word: letters of scripts with blanks, or a letter and its mark."""
    if not left or not right:
        return False
    if _is_mark(right):
        return _is_letter(left)
    return all(_is_letter(letter) and not _UNSPACED.match(letter) for letter in (left, right))


def _is_letter(character: str) -> bool:
    return character.isalnum() or character == "_" or _is_mark(character)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Mc")


def _word(line: str) -> str:
    """Return an answer in words, without the marks around it."""
    return " ".join(line.split()).strip(" .!:;,*\"'").lower()


def _numbers(text: str) -> list[str]:
    return [_plain(match) for match in _NUMBER.finditer(text)]


def _plain(match: re.Match[str]) -> str:
    digits, fraction = match["whole"].replace(",", ""), match["rest"] or ""
    sign = "-" if match["sign"] or match["inner"] else ""
    if fraction.startswith(":") or len(digits + fraction) > LONGEST:
        return sign + digits + fraction
    if fraction.startswith("/"):
        below = int(fraction[1:])
        return _decimal(Fraction(int(digits), below), sign) if below else sign + digits + fraction
    return _decimal(Fraction(f"{digits or '0'}{fraction}"), sign)


def _decimal(value: Fraction, sign: str) -> str:
    """Return ``value`` with its decimals, or as a fraction if they never end."""
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
