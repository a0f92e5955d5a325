"""Is a free answer right? Exact match of the final answer, as GSM8K is scored."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


def final_answer(text: str) -> str:
    """What a solution ends with: after "####" or "answer is" where it says so, else its last number, else its last
    line; numbers without commas, currency signs and trailing zeros."""
    marked = re.split(r"####|answer is|answer:", text, flags=re.IGNORECASE)
    tail = marked[-1] if len(marked) > 1 and marked[-1].strip() else text
    numbers = _NUMBER.findall(tail)
    if numbers:
        return _plain(numbers[0] if len(marked) > 1 else numbers[-1])
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    return lines[-1].rstrip(".").lower() if lines else ""


def is_right(said: str, answer: str) -> bool:
    """Whether what was ``said`` ends with the same answer as the reference solution ``answer``."""
    return final_answer(said) == final_answer(answer) != ""


def _plain(number: str) -> str:
    plain = number.replace(",", "").replace("$", "")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain
