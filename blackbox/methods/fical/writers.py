"""Writers of records: which words of a client's requests may be sent, and sentences that a language model writes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from promptfed.blackbox.text.quotation_filter import Quotations, shortened
from promptfed.examples.base import TextItem
from promptfed.records.injections import refusal
from promptfed.records.record import Record, RecordSchema
from promptfed.setup import Setup
from promptfed.types import ClientData

SCHEMA = RecordSchema(texts={"when": 140, "how": 100, "pitfalls": 100})
"""What clients say of a tool: when to use it, what it needs to know, what goes wrong."""
SHOWN, LONGEST = 8, 200
"""Requests that the writer is shown, and the characters of one."""
REQUEST = "You know a tool from use. Say in general words what others should know of it. Quote no request."
LABELS = {"when": "When to use it", "how": "What it must be told", "pitfalls": "What goes wrong"}


def short_words(words: Iterable[str], count: int, schema: RecordSchema = SCHEMA) -> tuple[str, ...]:
    """Return the first ``count`` of ``words``, or fewer, that fit into a record of ``schema``."""
    chosen: list[str] = []
    for word in words:
        longer = [*chosen, word]
        if len(word) > schema.longest_word or len(" ".join(longer)) > schema.most_characters:
            continue
        chosen = longer
        if len(chosen) == count:
            break
    return tuple(chosen)


class OracleWriter:
    """A language model that writes what a client knows of its tools: one query a tool.

    Its sentences are cut by the filter of quotations, shortened, and left out if they would be refused.
    """

    def __init__(self, setup: Setup, tokens: int, quoted_words: int) -> None:
        self.setup, self.tokens, self.quoted_words = setup, tokens, quoted_words

    def records(self, uses: Mapping[str, Sequence[str]], data: ClientData) -> list[Record]:
        """Return a record of each tool of ``uses`` about which something is left to say."""
        tools = list(uses)
        replies = self.setup.oracle.generate(
            [self._request(tool, uses[tool]) for tool in tools], max_tokens=self.tokens, stop=("\n\n",)
        )
        items = [item for split in (data.train, data.val, data.test) for item in split.items]
        private = Quotations([item.text for item in items if isinstance(item, TextItem)], self.quoted_words)
        records = []
        for tool, reply in zip(tools, replies, strict=True):
            texts = {
                name: shortened(private.removed(text), SCHEMA.texts[name])
                for name, text in fields_of(f"{LABELS['when']}: {reply}").items()
            }
            record = Record(tool, within(texts), support=len(uses[tool]))
            if record.texts and not refusal(record, self.setup.classes):
                records.append(record)
        return records

    def _request(self, tool: str, texts: Sequence[str]) -> str:
        form = self.setup.oracle.form
        shown = [f"- {' '.join(text.split())[:LONGEST]}" for text in texts[:SHOWN]]
        return "\n".join(
            [
                REQUEST,
                f"Tool: {form.word(tool)}. {form.description(tool)}",
                "Requests that it served:",
                *shown,
                f"Write three lines of one short sentence each: {', '.join(LABELS.values())}.",
                f"{LABELS['when']}:",
            ]
        )


def fields_of(reply: str) -> dict[str, str]:
    """Return field -> what ``reply`` says behind its label, on one line; a field without its label is left out."""
    labels = "|".join(re.escape(label) for label in LABELS.values())
    parts = re.split(rf"(?:\n\s*(?:[-*]|\d+[.)]))?\s*\b({labels})\s*:", reply, flags=re.IGNORECASE)
    names = {label.casefold(): name for name, label in LABELS.items()}
    fields: dict[str, str] = {}
    for label, text in zip(parts[1::2], parts[2::2], strict=True):
        plain = " ".join("".join(c if c.isprintable() else " " for c in text).split()).strip(" -*#\"'`")
        if plain:
            fields.setdefault(names[label.casefold()], plain)
    return fields


def within(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the leading fields of ``texts`` that fit into a record together."""
    fitting: dict[str, str] = {}
    for name in SCHEMA.texts:
        text = texts.get(name, "")
        if text and sum(map(len, fitting.values())) + len(text) <= SCHEMA.most_characters:
            fitting[name] = text
    return fitting
