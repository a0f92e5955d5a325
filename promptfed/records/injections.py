"""What a record must not say: a record is read by other people's agents, so it must not give them orders.

The patterns stop what is known: orders about tools and instructions, addresses, code, markup, hidden characters. A
sentence that misleads in plain words passes. It is no guarantee.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from promptfed.printable import JOINERS, UNSHOWN
from promptfed.records.record import Record

_VERB = (
    r"(?:call|invoke|use|using|run|execute|launch|trigger|start|choose|pick|select|prefer|try|query|consult"
    r"|(?:switch|route|redirect|forward|delegate|defer|go|hand (?:over|off|it)|pass (?:it|this|everything)) (?:on )?to)"
)
_ARTICLE = r"(?:(?:the|a|an|our|your|my|that|this)\s+)?[\"'\u2018\u201c]?"
_KIND = r"(?:tool|plugin|plug-in|function|api|action|skill|agent|assistant|command|endpoint)s?"
_ORDERS = {
    "an order about instructions": (
        r"\b(?:ignore|disregard|forget|override|overrule|bypass|skip|discard)\b.{0,40}"
        r"\b(?:instruction|rule|previous|prior|preceding|above|earlier|guideline|polic|description|record|context)",
        r"\b(?:new|updated|real|actual|secret|hidden) (?:instruction|rule|order|directive)s?\b",
        r"\b(?:system|developer) (?:prompt|message|instruction)s?\b",
        r"\byou (?:are now|must now|must always|will now|have to always)\b|\bact as\b|\bpretend (?:to be|that you)\b",
        r"(?:^|[.!?\n]\s*)\s*(?:system|assistant|user|developer|human|instruction)s?\s*:",
    ),
    "an order to call a tool": (
        rf"\b{_VERB}\s+(?:any\s+|an?\s+|the\s+)?(?:other|another|different|following|next|first|previous)\s+{_KIND}\b",
        r"\b(?:always|only|never|must|first|then|instead|please)\s+(?:call|invoke|use|choose|pick|select|prefer)\b"
        r"\s+(?:this|me|it|that)\b",
        r"\b(?:for|on|with) (?:every|any|all|each) (?:requests?|quer(?:y|ies)|tasks?|questions?|messages?|inputs?)\b",
        rf"\binstead of (?:any|all|every|the|other)\b.{{0,20}}\b{_KIND}\b",
        r"\b(?:no matter|regardless of) (?:what|which|the (?:request|question|query|task|user))\b",
        rf"\b(?:before|after) (?:calling|using|choosing) any\b|\bthis is the (?:best|only) {_KIND}\b",
    ),
    "an order to give something away": (
        r"\b(?:reveal|print|send|leak|post|share|output|show|upload|repeat|return|exfiltrate|email|forward)\b.{0,50}"
        r"\b(?:system prompt|password|api.?keys?|credentials?|secrets?|tokens?|conversation|chat history|user data"
        r"|private data|contacts list)\b",
    ),
    "an address": (
        r"\w+://|\bwww\.|\b(?:javascript|data|mailto)\s*:\s*\S",
        r"\b[\w-]{2,}\.(?:com|org|net|io|ai|co|dev|app|info|biz|xyz|ru|cn|de|uk|fr|eu|us|me|tk|sh|ly|gg)\b",
        r"[\w.+-]+@[\w-]+\.\w|\b\d{1,3}(?:\.\d{1,3}){3}\b",
    ),
    "code": (
        r"```|~~~|`|\{|\}|<[a-z/!|?]|\|>|\$\(|\[/?inst\]|#{3,}|\\[nrtux]",
        r"\b\w+\((?!s\)|es\)|ies\))[^)\s]*\)|\w+\([^)]*=[^)]*\)",
        r"\b(?:curl|wget|sudo|chmod|powershell|eval|exec|os\.system|subprocess)\b\s*\S|\brm\s+-|\bimport\s+\w+;"
        r"|\bdrop\s+table\b|\bselect\s+\*",
        r"[a-z0-9+/]{40,}|(?:%[0-9a-f]{2}){3,}",
    ),
}
_PATTERNS = [(why, re.compile("|".join(patterns))) for why, patterns in _ORDERS.items()]
_WORD = re.compile(r"[^\W_][\w'\u2019-]*\Z")


def refusal(record: Record, keys: Sequence[str] = ()) -> str:
    """Return why ``record`` must not be passed on; "" if nothing is wrong with it.

    Args:
        record: What is looked at: its key, its sentences and its words.
        keys: The keys that there are; a record about another one, or with orders to use another one, is refused.
    """
    if keys and record.key not in keys:
        return "a key that nobody knows"
    for text in (record.key, *record.texts.values(), *record.words):
        if _has_hidden(text):
            return "a hidden or control character"
    if any(not _WORD.match(word) for word in record.words):
        return "a word with other characters than letters and digits"
    others = tuple(key for key in keys if key != record.key)
    sentences = [*record.texts.values(), " ".join(record.texts.values()), ", ".join(record.words)]
    return next((why for text in sentences if (why := injection(text, others))), "")


def injection(text: str, others: tuple[str, ...] = ()) -> str:
    """Return what kind of order, address or code ``text`` holds; "" for none.

    Args:
        text: One sentence or several.
        others: Names of tools that it must not tell anybody to use.
    """
    plain = _plain(text)
    for why, pattern in _PATTERNS:
        if pattern.search(plain):
            return why
    pattern_of_others = _naming(others)
    return "an order to call a tool" if pattern_of_others is not None and pattern_of_others.search(plain) else ""


@lru_cache(maxsize=4096)
def _naming(names: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return the pattern of an order to use one of ``names``; None without names."""
    listed = "|".join(re.escape(_plain(name)) for name in sorted(names, key=len, reverse=True) if name.strip())
    return re.compile(rf"\b{_VERB}\s+{_ARTICLE}(?:{listed})(?![\w])") if listed else None


def _plain(text: str) -> str:
    """Return ``text`` in the form that patterns are written for: compatibility forms, lower case, single spaces."""
    return re.sub(r"[ \t\u00a0]+", " ", unicodedata.normalize("NFKC", text).casefold())


def _has_hidden(text: str) -> bool:
    return any(unicodedata.category(c) in UNSHOWN and c not in JOINERS for c in text)
