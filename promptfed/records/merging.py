"""Merging of records by their key: words with the number of clients that sent them, sentences without near copies."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from promptfed.records.injections import refusal
from promptfed.records.record import Record, RecordSchema, check_lengths, lines_of, parsed

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class MergeRule:
    """What a merge lets through.

    Attributes:
        least_clients: Clients that must have sent a word; of sentences, clients that must say anything about the key.
        keep: Sentences of a key, those with the most clients and support behind them.
        words: Words of a key, those that most clients sent.
        near: Two sentences whose words agree to this share (intersection by union) count as one.
    """

    least_clients: int = 1
    keep: int = 3
    words: int = 60
    near: float = 0.8


def read_records(tensor: Tensor, schema: RecordSchema, keys: Sequence[str] = ()) -> tuple[list[Record], list[str]]:
    """Return the records of ``tensor`` that may be used, and why each of the others is refused.

    Raises:
        ValueError: The tensor holds no records at all.
    """
    return _read(tensor, schema, keys, lambda record: record)


def read_upload(tensor: Tensor, schema: RecordSchema, keys: Sequence[str] = ()) -> tuple[list[Record], list[str]]:
    """Return ``read_records`` of what one client sent: nobody speaks for others, or says two things about a key.

    Raises:
        ValueError: The tensor holds no records at all.
    """
    seen: set[tuple[str, bool]] = set()

    def as_sent(record: Record) -> Record:
        record = replace(record, counts=(), clients=1)
        check_lengths(record, schema)
        kind = record.key, bool(record.words)
        if kind in seen:
            raise ValueError("a second record of its key")
        seen.add(kind)
        return record

    return _read(tensor, schema, keys, as_sent)


def _read(
    tensor: Tensor, schema: RecordSchema, keys: Sequence[str], checked: Callable[[Record], Record]
) -> tuple[list[Record], list[str]]:
    accepted, refused = [], []
    for line in lines_of(tensor):
        try:
            record = checked(parsed(line, schema))
        except ValueError as error:
            refused.append(str(error))
            continue
        if why := refusal(record, keys):
            refused.append(why)
        else:
            accepted.append(record)
    return accepted, refused


def merged_records(by_client: Mapping[int, Sequence[Record]], rule: MergeRule) -> list[Record]:
    """Return one record of words for each key, and up to ``rule.keep`` of sentences, sorted by key.

    Args:
        by_client: Client -> its records. However many it sends of a key, it counts as one client.
        rule: What the merge lets through.
    """
    by_key: dict[str, dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for client, records in sorted(by_client.items()):
        for record in records:
            by_key[record.key][client].append(record)
    result = []
    for key, holders in sorted(by_key.items()):
        result += _merged_words(key, holders, rule)
        result += _merged_texts(holders, rule)
    return result


def _merged_words(key: str, holders: Mapping[int, Sequence[Record]], rule: MergeRule) -> list[Record]:
    counts: dict[str, int] = defaultdict(int)
    ranks: dict[str, int] = {}
    senders, support = 0, 0
    for records in holders.values():
        words = list(dict.fromkeys(word for record in records for word in record.words))
        senders += bool(words)
        support += max((record.support for record in records if record.words), default=0)
        for rank, word in enumerate(words):
            counts[word] += 1
            ranks[word] = min(rank, ranks.get(word, rank))
    chosen = [word for word, count in counts.items() if count >= rule.least_clients]
    chosen = sorted(chosen, key=lambda word: (-counts[word], ranks[word], word))[: rule.words]
    if not chosen:
        return []
    return [Record(key, {}, tuple(chosen), tuple(counts[word] for word in chosen), support, senders)]


def _merged_texts(holders: Mapping[int, Sequence[Record]], rule: MergeRule) -> list[Record]:
    senders = [client for client, records in holders.items() if any(record.texts for record in records)]
    if len(senders) < rule.least_clients:
        return []
    entries = [(client, record) for client in senders for record in holders[client] if record.texts]
    entries.sort(key=lambda entry: (-entry[1].support, entry[1].line()))
    groups: list[tuple[set[str], Record, dict[int, int]]] = []
    for client, record in entries:
        words = {word for text in record.texts.values() for word in _WORD.findall(text.casefold())}
        group = next((group for group in groups if _share(group[0], words) >= rule.near), None)
        if group is None:
            groups.append((words, record, {client: record.support}))
        else:
            group[2][client] = max(record.support, group[2].get(client, 0))
    joined = [
        replace(record, words=(), counts=(), support=sum(by.values()), clients=len(by)) for _, record, by in groups
    ]
    joined.sort(key=lambda record: (-record.clients, -record.support, record.line()))
    return joined[: rule.keep]


def _share(one: set[str], other: set[str]) -> float:
    together = len(one | other)
    return len(one & other) / together if together else 1.0
