"""One record: what somebody says about a key, with a schema that limits it; records as the bytes of one tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

MOST_RECORDS = 5000
"""Records that one tensor may hold."""
MOST_SUPPORT = 10**6
LONGEST_LINE = 20_000
"""Characters of a record's line that are parsed at all."""


@dataclass(frozen=True)
class RecordSchema:
    """What a kind of record may say.

    Attributes:
        texts: Names of its sentences, each with the most characters that it may have.
        most_characters: Of all sentences together, or of all words together, in what one client says of a key.
        most_words: Words of a merged record, which the words of many clients make up.
        longest_word: Characters of a word.
    """

    texts: Mapping[str, int] = field(default_factory=lambda: {"text": 240})
    most_characters: int = 240
    most_words: int = 400
    longest_word: int = 32


@dataclass(frozen=True)
class Record:
    """What one client, or several, say about ``key``.

    Attributes:
        key: What it is about, such as the name of a tool.
        texts: Name -> sentence.
        words: Telling words, the most telling first.
        counts: How many clients sent each of ``words``; empty: one each.
        support: How many private examples are behind it.
        clients: How many clients are.
    """

    key: str
    texts: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    support: int = 1
    clients: int = 1

    def word_counts(self) -> dict[str, int]:
        """Return word -> how many clients sent it."""
        return dict(zip(self.words, self.counts or [1] * len(self.words), strict=True))

    def line(self) -> str:
        """Return the record as one line of JSON. What has its default value is left out."""
        fields: dict[str, Any] = {"key": self.key, **{name: text for name, text in self.texts.items() if text}}
        if self.words:
            fields["words"] = " ".join(self.words)
        if any(count > 1 for count in self.counts):
            fields["counts"] = list(self.counts)
        fields["support"] = self.support
        if self.clients > 1:
            fields["clients"] = self.clients
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


NO_RECORDS = torch.zeros(0, dtype=torch.uint8)
"""The tensor of no records."""


def records_tensor(records: Iterable[Record]) -> Tensor:
    """Return ``records`` as the UTF-8 bytes ``(bytes,)`` uint8 of their lines."""
    content = "".join(f"{record.line()}\n" for record in records).encode()
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else NO_RECORDS.clone()


def lines_of(tensor: Tensor) -> list[str]:
    """Return the lines of a tensor of records, as they are.

    Raises:
        ValueError: It holds no UTF-8, or more than ``MOST_RECORDS`` lines.
    """
    if tensor.dtype != torch.uint8 or tensor.dim() != 1:
        raise ValueError(f"records are bytes in one row, not {tensor.dtype} {tuple(tensor.shape)}")
    lines = tensor.numpy().tobytes().decode().split("\n")
    if len(lines) > MOST_RECORDS + 1:
        raise ValueError(f"{len(lines) - 1} records, where {MOST_RECORDS} are allowed")
    return [line for line in lines if line]


def parsed(line: str, schema: RecordSchema) -> Record:
    """Return the record of one line.

    Raises:
        ValueError: It is no record of this schema; the message says why.
    """
    if len(line) > LONGEST_LINE:
        raise ValueError(f"a line of {len(line):,} characters")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("a line that is no JSON") from error
    if not isinstance(fields, dict):
        raise ValueError("a line that is no object")
    if unknown := sorted(set(fields) - {"key", "words", "counts", "support", "clients", *schema.texts}):
        raise ValueError(f"a field '{unknown[0][:40]}' that the schema does not know")
    texts = {name: fields[name] for name in schema.texts if name in fields}
    key, words = fields.get("key"), fields.get("words", "")
    if not all(isinstance(value, str) for value in (key, words, *texts.values())) or not key:
        raise ValueError("a field that is no text")
    word_list = tuple(words.split())
    counts = _counts(fields.get("counts", []), len(word_list))
    support, clients = (_number(fields.get(name, 1), name) for name in ("support", "clients"))
    record = Record(key, texts, word_list, counts, support, clients)
    check_lengths(record, schema)
    return record


def check_lengths(record: Record, schema: RecordSchema) -> None:
    """Raise ValueError if a sentence, a word, or all of them together are too long for ``schema``."""
    for name, text in record.texts.items():
        if len(text) > schema.texts[name]:
            raise ValueError(f"'{name}' of {len(text)} characters, where {schema.texts[name]} are allowed")
    if (total := sum(map(len, record.texts.values()))) > schema.most_characters:
        raise ValueError(f"{total} characters, where {schema.most_characters} are allowed")
    if any(len(word) > schema.longest_word for word in record.words):
        raise ValueError(f"a word of more than {schema.longest_word} characters")
    if len(record.words) > schema.most_words:
        raise ValueError(f"{len(record.words)} words, where {schema.most_words} are allowed")
    if len(set(record.words)) < len(record.words):
        raise ValueError("a word twice")
    if record.clients == 1 and (total := len(" ".join(record.words))) > schema.most_characters:
        raise ValueError(f"words of {total} characters, where {schema.most_characters} are allowed")
    if not record.words and not any(text.strip() for text in record.texts.values()):
        raise ValueError("nothing about its key")


def _counts(values: object, words: int) -> tuple[int, ...]:
    if not isinstance(values, list) or (values and len(values) != words):
        raise ValueError("counts that do not go with the words")
    return tuple(_number(value, "counts") for value in values)


def _number(value: object, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_SUPPORT:
        raise ValueError(f"'{name}' that is no whole number from 1 to {MOST_SUPPORT}")
    return value


def readable(records: Iterable[Record], words: int = 12) -> str:
    """Return ``records`` for people, a line each: what is said, and by how many clients of how many examples.

    Args:
        records: What is shown.
        words: Words of a record that are shown at most.
    """
    lines = []
    for record in records:
        more = ", ..." if len(record.words) > words else ""
        said = [*record.texts.values(), ", ".join(record.words[:words]) + more]
        clients = "1 client" if record.clients == 1 else f"{record.clients} clients"
        lines.append(f"{record.key}: {' '.join(filter(None, said))} ({clients}, {record.support} examples)")
    return "\n".join(lines)
