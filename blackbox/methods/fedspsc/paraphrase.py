"""Paraphrases of questions, written by the black box itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.examples.base import Item, TextItem

REQUESTS = (
    "Say the same in other words.",
    "Write the text again in simpler words.",
    "Repeat the text, but change the order of the sentences.",
    "Put the text shorter, without losing anything.",
)
END = "The same in other words:"


def rephrased(oracle: Oracle, items: Sequence[Item], way: int) -> list[Item]:
    """Return ``items`` reworded, one query each; an item without a usable rewording stays as it is.

    ``way`` 0, 1 ... asks in different ways, and beyond the last of them draws anew.
    """
    repeat, index = divmod(way, len(REQUESTS))
    texts = [item.text if isinstance(item, TextItem) else "" for item in items]
    requests = [f"{REQUESTS[index]}\nText: {text}\n{END}" for text in texts]
    longest = max((len(text) for text in texts), default=0)
    replies = oracle.generate(
        requests,
        max_tokens=longest // 2 + 16,
        temperature=0.7 if repeat else 0.0,
        sample=repeat,
        stop=("\n\n", "\nText:"),
    )
    return [_worded(item, text) for item, text in zip(items, replies, strict=True)]


def _worded(item: Item, wording: str) -> Item:
    text = " ".join(wording.split()).strip("\"'")
    return replace(item, text=text) if isinstance(item, TextItem) and any(c.isalpha() for c in text) else item
