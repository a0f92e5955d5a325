"""Choice among documents by the words of a text: TF-IDF and the cosine, without a model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from promptfed.prompt_template import PromptTemplate

SCALE = 20.0
"""Cosines times this are scores, as of sentence encoders."""
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_STOP = frozenset(
    [
        "a",
        "about",
        "all",
        "am",
        "an",
        "and",
        "any",
        "anything",
        "are",
        "as",
        "at",
        "be",
        "been",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "done",
        "for",
        "from",
        "get",
        "give",
        "going",
        "got",
        "had",
        "has",
        "have",
        "he",
        "her",
        "here",
        "him",
        "his",
        "how",
        "i",
        "i'd",
        "i'll",
        "i'm",
        "i've",
        "if",
        "in",
        "into",
        "is",
        "isn't",
        "it",
        "it's",
        "its",
        "just",
        "let",
        "like",
        "ll",
        "m",
        "make",
        "me",
        "more",
        "much",
        "my",
        "need",
        "no",
        "not",
        "of",
        "on",
        "one",
        "or",
        "our",
        "out",
        "please",
        "re",
        "s",
        "she",
        "should",
        "so",
        "some",
        "t",
        "tell",
        "than",
        "that",
        "that's",
        "the",
        "their",
        "them",
        "then",
        "there",
        "they",
        "this",
        "to",
        "too",
        "up",
        "us",
        "ve",
        "want",
        "was",
        "we",
        "were",
        "what",
        "what's",
        "when",
        "where",
        "where's",
        "which",
        "who",
        "who's",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
    ]
)
"""English words that say nothing of a request's subject."""
_ENDINGS = (("ies", 2, "y"), ("ing", 4, ""), ("ed", 4, ""), ("es", 4, ""), ("s", 3, ""))
"""Ending, the letters that must stay before it, and what takes its place: enough for the plural and the gerund."""


def words_of(text: str) -> list[str]:
    """Return the words of ``text`` in lower case, without stop words and English endings."""
    found = _WORD.findall(text.casefold().replace("\u2019", "'"))
    return [_stem(word) for word in found if word not in _STOP]


def _stem(word: str) -> str:
    word = word.removesuffix("'s")
    for ending, least, instead in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= least and not word.endswith("ss"):
            return word[: -len(ending)] + instead
    return word


def described(names: Iterable[str], form: PromptTemplate | None) -> dict[str, Counter[str]]:
    """Return name -> the words of its description; where there is no ``form``, of the name itself."""
    return {name: Counter(words_of(form.description(name) if form else name)) for name in names}


class WordRouter:
    """Router to one of ``documents`` by TF-IDF: ``(1 + log tf) * idf`` of a document's words, idf of a text's."""

    def __init__(self, documents: Sequence[Mapping[str, float]]) -> None:
        frequency = Counter(word for document in documents for word in document)
        self.idf = {word: math.log((1 + len(documents)) / (1 + n)) + 1 for word, n in frequency.items()}
        self._columns: dict[str, list[tuple[int, float]]] = {}
        for place, document in enumerate(documents):
            weights = {word: (1 + math.log(max(n, 1))) * self.idf[word] for word, n in document.items()}
            length = math.sqrt(sum(weight * weight for weight in weights.values()))
            for word, weight in weights.items():
                self._columns.setdefault(word, []).append((place, weight / length))
        self.count = len(documents)

    def cosines(self, texts: Iterable[str]) -> Tensor:
        """Return the cosine ``(texts, documents)`` float32 of each text to each document; 0 without a common word."""
        rows = []
        for text in texts:
            row = [0.0] * self.count
            known = [word for word in words_of(text) if word in self.idf]
            counts = Counter(known)
            length = math.sqrt(sum((n * self.idf[word]) ** 2 for word, n in counts.items()))
            for word, n in counts.items():
                for place, weight in self._columns[word]:
                    row[place] += weight * n * self.idf[word] / length
            rows.append(row)
        return torch.tensor(rows, dtype=torch.float32).reshape(-1, self.count)


def telling_words(texts: Mapping[str, Sequence[str]], count: int | None = None) -> dict[str, dict[str, int]]:
    """Return key -> its most telling words, each with the number of its texts that have it, the most telling first.

    A word tells of a key if many of its texts have it, and texts of few other keys do: texts with it times its idf over
    the keys. Words with a digit beside letters, or of more than three digits, are left out: they name single things.

    Args:
        texts: Key -> its texts.
        count: Words of a key; None for all.
    """
    held = {key: Counter(word for text in own for word in set(words_of(text)) if _is_general(word))
            for key, own in texts.items()}  # fmt: skip
    keys_with = Counter(word for words in held.values() for word in words)
    idf = {word: math.log((1 + len(held)) / (1 + n)) + 1 for word, n in keys_with.items()}
    return {
        key: dict(sorted(words.items(), key=lambda entry: (-entry[1] * idf[entry[0]], entry[0]))[:count])
        for key, words in held.items()
    }


def _is_general(word: str) -> bool:
    digits = sum(c.isdigit() for c in word)
    return digits == 0 or (digits == len(word) and digits <= 3)
