"""Scores of labels from a server's reply: log-probabilities in either layout, echoes, and plain choices."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from promptfed.blackbox.oracles.base import DIGITS
from promptfed.blackbox.oracles.query import OracleAnswer
from promptfed.blackbox.oracles.remote.failures import Unusable
from promptfed.examples.exact_match import first_word
from promptfed.printable import printable

MARGIN = 1.0
"""A label that is not among the log-probabilities reported gets the least of them minus this (in nats)."""
UNLIKELIEST = -9000.0
"""Values at or below it stand for "unknown" (OpenAI sends -9999)."""
SHOWN = 60
"""Characters of an answer that a message shows."""
_THOUGHT_START = re.compile(r"<(?:think|thinking|reasoning|thought)>", re.IGNORECASE)
_THOUGHT_END = re.compile(r"</(?:think|thinking|reasoning|thought)>", re.IGNORECASE)
SPACES = {"\u0120": " ", "\u2581": " ", "\u010a": "\n"}
"""How some servers spell white space in tokens: the marks of byte-level BPE and of SentencePiece."""


@dataclass(frozen=True)
class TokenScores:
    """One token of an answer: its text, its log-probability (None: not reported), and those of ``top`` tokens there."""

    token: str
    logprob: float | None
    top: Mapping[str, float]


def first_choice(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first choice of a reply.

    Raises:
        Unusable: It holds none.
    """
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Unusable("the answer holds no choices")
    return choices[0]


def text_of(choice: Mapping[str, Any]) -> str:
    """Return the model's text, of a completion or a chat.

    Raises:
        Unusable: There is none.
    """
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    if text is None and isinstance(message, dict):
        text = ""  # a refusal, or thinking that used the tokens up
    if not isinstance(text, str):
        raise Unusable("the answer holds no text")
    return text


def spoken(text: str) -> str:
    """Strip a model's reasoning before the reply (``<think>...</think>``); empty if that has no end."""
    reply = _THOUGHT_END.split(text)[-1]
    opening = _THOUGHT_START.search(reply)
    return (reply[: opening.start()] if opening else reply).strip()


def thinks(text: str) -> bool:
    """Return whether ``text`` contains a model's reasoning."""
    return bool(_THOUGHT_START.search(text) or _THOUGHT_END.search(text))


def why_nothing(choice: Mapping[str, Any]) -> str:
    """Describe a useless answer for people."""
    text, message = text_of(choice), choice.get("message")
    more = message if isinstance(message, dict) else {}
    end = choice.get("finish_reason")
    if end == "content_filter":
        return "a filter withheld the answer"
    if isinstance(more.get("refusal"), str) and more["refusal"]:
        return f"it refuses: '{printable(more['refusal'], SHOWN)}'"
    thought = any(more.get(name) for name in ("reasoning_content", "reasoning")) or thinks(text)
    if not spoken(text):
        description = "it thought and did not answer" if thought else "the answer is empty"
        return description + (", its tokens used up" if end == "length" else "")
    return f"it says '{printable(spoken(text), SHOWN)}'"


def token_scores(choice: Mapping[str, Any]) -> list[TokenScores]:
    """Return the tokens of an answer with log-probabilities, empty without.

    Two layouts are read: that of completions (``tokens``, ``token_logprobs``, ``top_logprobs``) and that of chats
    (``content``), which llama.cpp uses for both.
    """
    content = choice.get("logprobs")
    if not isinstance(content, dict):
        return []
    if isinstance(content.get("content"), list):
        entries = [entry for entry in content["content"] if isinstance(entry, dict)]
        return [_entry(e.get("token"), e.get("logprob"), _pairs(e.get("top_logprobs"))) for e in entries]
    tokens, log_probabilities, top = (content.get(name) or [] for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not all(isinstance(part, list) for part in (tokens, log_probabilities, top)):
        return []
    log_probabilities, top = (part + [None] * (len(tokens) - len(part)) for part in (log_probabilities, top))
    return [_entry(*each) for each in zip(tokens, log_probabilities, top, strict=False)]


def label_scores(top: Mapping[str, float], first: Sequence[str], is_chat: bool) -> tuple[tuple[float, ...], int]:
    """Return a score for each label and the number of floored ones.

    In a chat all spellings of a label count together ("Good", " good"), as the model is free to choose. In a completion
    only the spelling that continues the text counts, as for a model in this process.

    Args:
        top: Tokens with their log-probabilities.
        first: The first token of each label.
        is_chat: Whether the reply is of a chat.

    Raises:
        Unusable: ``top`` is empty.
    """
    if not top:
        raise Unusable("the answer holds no log-probabilities")
    floor = min(top.values()) - MARGIN
    scores, floored = [], 0
    for token in first:
        matching = [value for name, value in top.items() if (plain(name) == plain(token) if is_chat else name == token)]
        floored += not matching
        scores.append(round(_log_sum(matching) if matching else floor, DIGITS))
    return tuple(scores), floored


def echo_score(tokens: Sequence[TokenScores], prompt: str, end: str, prompt_tokens: int | None) -> float:
    """Return the log-probability of ``end``, the last piece of the echoed ``prompt``, given the text before it.

    It is the sum over the tokens of ``end``.

    Raises:
        Unusable: This is no echo, or one without log-probabilities.
    """
    for stop in (prompt_tokens or 0, len(tokens) - 1, len(tokens)):  # one generated token may follow
        if not 0 < stop <= len(tokens):
            continue
        if not _tight("".join(token.token for token in tokens[:stop])).endswith(_tight(prompt)):
            continue
        text, start = "", stop
        while start > 0 and len(_tight(text)) < len(_tight(end)):
            start -= 1
            text = tokens[start].token + text
        values = [token.logprob for token in tokens[start:stop]]
        if any(value is None for value in values):
            raise Unusable("the echo lacks log-probabilities")
        return round(sum(value for value in values if value is not None), DIGITS)
    raise Unusable("the server does not echo the prompt with log-probabilities")


def spelled(tokens: Sequence[TokenScores], words: Sequence[str], gap: str) -> dict[str, list[str]]:
    """Return word -> the tokens that spell it after ``gap``, for the words that ``tokens`` hold whole.

    The first token begins at the gap, and the last one ends where the next word or nothing begins.
    """
    text, starts = "", []
    for token in tokens:
        starts.append(len(text))
        text += token.token
    ends = {*starts, len(text)}
    spellings: dict[str, list[str]] = {}
    for word in words:
        for match in re.finditer(re.escape(gap + word), text):
            begin = match.start() if gap == " " else match.start() + len(gap)
            if begin in ends and match.end() in ends:
                inside = [k for k, start in enumerate(starts) if begin <= start < match.end()]
                spellings[word] = [tokens[k].token for k in inside]
                break
    return spellings


def chosen(text: str, words: Sequence[str]) -> int | None:
    """Return the index of the label word that ``text`` names first, whatever its case; the longest at the same place.

    A label counts where it is a word: inside a longer one it does not, in a script without blanks it does.
    """
    places = []
    for index, word in enumerate(words):
        position = first_word(text, word)
        if position is not None:
            places.append((position, -len(word), index))
    return min(places)[2] if places else None


def counted(reply: Mapping[str, Any], answer: OracleAnswer) -> OracleAnswer:
    """Return ``answer`` with the tokens that the server counted for it."""
    usage = reply.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    prompt, completion = (counts.get(name) for name in ("prompt_tokens", "completion_tokens"))
    return replace(
        answer,
        prompt_tokens=prompt if isinstance(prompt, int) else 0,
        completion_tokens=completion if isinstance(completion, int) else 0,
    )


def plain(token: str) -> str:
    """Return a token in plain letters, lower case, for comparison."""
    return token.strip().lower()


def _entry(token: Any, logprob: Any, top: Any) -> TokenScores:
    name, logprob_value = _spaced(str(token)), _finite(logprob)
    pairs = top.items() if isinstance(top, dict) else ()
    scores = {_spaced(str(other)): value for other, raw in pairs if (value := _finite(raw)) is not None}
    if logprob_value is not None:
        scores.setdefault(name, logprob_value)
    return TokenScores(name, logprob_value, scores)


def _pairs(top: Any) -> dict[str, Any]:
    entries = [entry for entry in top if isinstance(entry, dict)] if isinstance(top, list) else []
    pairs: dict[str, Any] = {}
    for entry in entries:
        pairs.setdefault(str(entry.get("token")), entry.get("logprob"))
    return pairs


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) and value > UNLIKELIEST else None


def _log_sum(values: Sequence[float]) -> float:
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values))


def _tight(text: str) -> str:
    return "".join(text.split())


def _spaced(token: str) -> str:
    return token if token.isascii() else "".join(SPACES.get(letter, letter) for letter in token)
