"""Check that the data of a run are unchanged: its classes, clients and every example."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptfed.errors import DataError
from promptfed.examples.base import Item
from promptfed.printable import printable
from promptfed.runs.client_rows import ClientRows
from promptfed.types import ClientData, FederatedTask, Split

LISTED = 3
"""Differences that a message names."""
NAME_LIMIT = 60


class ContentDigests:
    """SHA-256 of examples; the content of an example that several clients hold is looked at once.

    If the examples are at sites, their numbers alone are hashed.
    """

    def __init__(self) -> None:
        self._ids: dict[int, tuple[Item, str]] = {}

    def of_tests(self, task: FederatedTask) -> str:
        """Return the digest of the common tests."""
        domains = {f"domain {name}": split for name, split in task.domain_tests.items()}
        return self._of({"base": task.base_test, "new": task.new_test, **domains})

    def of_client(self, data: ClientData) -> str:
        """Return the digest of a client's examples."""
        unlabelled = {"unlabelled": data.unlabelled} if data.unlabelled.total else {}
        return self._of({"train": data.train, "val": data.val, "test": data.test, **unlabelled})

    def _of(self, splits: Mapping[str, Split]) -> str:
        """Return the SHA-256 of the examples and labels of each split, in any order of the examples."""
        lines = []
        for use, split in splits.items():
            labels = split.labels.tolist()
            ids = [self._id(item) for item in split.items] or [""] * len(labels)
            lines += sorted(f"{use}|{label}|{content}" for label, content in zip(labels, ids, strict=True))
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def _id(self, item: Item) -> str:
        if (entry := self._ids.get(id(item))) is not None:
            return entry[1]
        content = item.content_id()
        self._ids[id(item)] = item, content  # with the item, whose id is else another's once it is gone
        return content


def check_partition(recorded: Mapping[str, Any] | None, current: Mapping[str, Any], run: Path) -> None:
    """Compare the ``partition.json`` of ``run`` with the record of its current data.

    Args:
        recorded: The content of partition.json; None if there is none yet.
        current: The record of the data as they are now.
        run: The run's folder, for the message.

    Raises:
        DataError: The data differ; the message says how.
    """
    changes = [] if recorded is None else differences(recorded, current)
    if changes:
        more = f" and {len(changes) - LISTED} more" if len(changes) > LISTED else ""
        raise DataError(
            f"the data of run '{printable(run)}' have changed since it started: {'; '.join(changes[:LISTED])}"
            f"{more}. Bring the old data back, or begin a new run"
        )


def differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return the differences between two partition records, the gravest first.

    A part that one of them lacks, as records of promptfed 0.1 lack the contents, is not compared.
    """
    changes = []
    for part, kind in (("classes", "class"), ("new_classes", "new class")):
        if part in recorded and part in current:
            changes += _names(kind, recorded[part], current[part])
    if changes:  # labels mean something else: all that follows differs, too
        return changes
    old_rows, new_rows = recorded.get("clients", []), current.get("clients", [])
    changes += _names("client", [row.get("name") for row in old_rows], [row.get("name") for row in new_rows])
    if changes:
        return changes
    contents = [record.get("content") or {} for record in (recorded, current)]
    same = isinstance(old_rows, ClientRows) and isinstance(new_rows, ClientRows) and old_rows.same_as(new_rows)
    old, new = ({} if same else _digests(record) for record in (recorded, current))
    for k, (old_row, new_row) in enumerate(() if same else zip(old_rows, new_rows, strict=True)):
        name = printable(old_row.get("name"), NAME_LIMIT)
        if changed_uses := [use for use in ("train", "val", "test") if old_row.get(use) != new_row.get(use)]:
            use = changed_uses[0]
            changes.append(
                f"{name} has {_total(new_row, use)} {use} examples, not {_total(old_row, use)}"
                if _total(old_row, use) != _total(new_row, use)
                else f"{name} has other {use} examples"
            )
        elif k in old and k in new and old[k] != new[k]:
            changes.append(f"{name} has other examples")
    tests = [content.get("tests") for content in contents]
    if None not in tests and tests[0] != tests[1]:
        changes.append("the test examples are others")
    return changes


def _names(kind: str, old: Sequence[Any], new: Sequence[Any]) -> list[str]:
    if list(old) == list(new):
        return []
    removed, added = ([name for name in first if name not in second] for first, second in ((old, new), (new, old)))
    if not removed and not added:
        return [f"the order of the {kind}{'es' if kind.endswith('s') else 's'} is another"]
    sentences = []
    if removed:
        sentences.append(f"no {kind} {_listed(removed)} any more")
    if added:
        sentences.append(f"{kind} {_listed(added)} is new")
    return [", and ".join(sentences)]


def _listed(names: Sequence[Any]) -> str:
    listing = ", ".join(f"'{printable(name, NAME_LIMIT)}'" for name in names[:LISTED])
    return listing + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _total(row: Mapping[str, Any], use: str) -> int:
    return sum(row.get(use) or ())


def _digests(record: Mapping[str, Any]) -> dict[int, str]:
    """Return row -> the SHA-256 of its client's examples, where the record has it."""
    rows = record.get("clients", [])
    if isinstance(rows, ClientRows):
        return {k: rows.digest(k) for k in range(len(rows))}
    return dict(enumerate((record.get("content") or {}).get("clients", [])))
