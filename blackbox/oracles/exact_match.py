"""What an answer says: the final answer of a solution (exact match, as GSM8K is scored), and where a word stands in it.

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


def first_word(text: str, word: str) -> int | None:
    """Where ``word`` first stands in ``text`` as a word of its own, in characters of the compared form; None: nowhere.

    Case, width and the way accents are composed do not count.
    """
    shown, wanted = _compared(text), _compared(word).strip()
    place = shown.find(wanted) if wanted else -1
    while place >= 0:
        end = place + len(wanted)
        before, after = shown[place - 1 : place], shown[end : end + 1]
        is_suffixed = bool(_HANGUL.match(wanted[-1]) and _HANGUL.match(after))
        if not (_joined(before, wanted[0]) or (_joined(wanted[-1], after) and not is_suffixed)):
            return place
        place = shown.find(wanted, place + 1)
    return None


def _compared(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _joined(left: str, right: str) -> bool:
    """Whether two neighbours are of one word: letters of scripts with blanks, or a letter and its mark."""
    if not left or not right:
        return False
    if _is_mark(right):
        return _is_letter(left)
    return all(_is_letter(one) and not _UNSPACED.match(one) for one in (left, right))


def _is_letter(character: str) -> bool:
    return character.isalnum() or character == "_" or _is_mark(character)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Mc")


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
