"""How much of an answer a reply has: the words of both, compared as the question answering literature does.

SQuAD's measures (Rajpurkar et al. 2016, arXiv 1606.05250), with two differences: articles count, because they are a
matter of English, and in scripts without blanks between words each character is a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from promptfed.examples.exact_match import UNSPACED

_UNSPACED = re.compile(f"([{UNSPACED}])")


def answer_words(text: str) -> list[str]:
    """Return the words of ``text`` without case and punctuation.

    >>> answer_words("It's 4, isn't it?")
    ['its', '4', 'isnt', 'it']
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(letter for letter in folded if not unicodedata.category(letter).startswith("P"))
    return _UNSPACED.sub(r" \1 ", kept).split()


def is_same(reply: str, answer: str) -> bool:
    """Return whether both have the same words in the same order; of answers without a word, the same characters."""
    words = answer_words(answer)
    return answer_words(reply) == words if words else reply.strip() == answer.strip()


def has_phrase(reply: str, phrase: str) -> bool:
    """Return whether the words of ``phrase`` stand in ``reply`` one after the other; of no words, never.

    >>> has_phrase("With fine tweezers, of course.", "Fine tweezers")
    True
    """
    words, wanted = answer_words(reply), answer_words(phrase)
    starts = range(len(words) - len(wanted) + 1) if wanted else ()
    return any(words[start : start + len(wanted)] == wanted for start in starts)


def token_f1(reply: str, answer: str) -> float:
    """Return the harmonic mean of precision and recall of the words, 0..1; each counts as often as it occurs.

    >>> token_f1("four apples and a pear", "four apples")
    0.5714285714285714
    """
    if is_same(reply, answer):
        return 1.0
    left, right = Counter(answer_words(reply)), Counter(answer_words(answer))
    common = (left & right).total()
    return 2 * common / (left.total() + right.total()) if common else 0.0
