"""Whether the data of a run are still those that it was begun with: its classes, clients and every example."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from promptfed.errors import DataError
from promptfed.printable import printable
from promptfed.types import ClientData, FederatedTask, Split

LISTED = 3
"""Differences that a message names."""
NAME_LIMIT = 60


def content_record(task: FederatedTask) -> dict[str, Any]:
    """``{"clients": [SHA-256 of what each client holds], "tests": SHA-256 of the common tests}``.

    Of a task whose examples are at sites, the numbers of examples alone.
    """
    tests = {"base": task.base_test, "new": task.new_test, **{f"domain {k}": v for k, v in task.domain_tests.items()}}
    return {"clients": [_client_digest(data) for data in task.clients], "tests": _digest(tests)}


def check_partition(recorded: Mapping[str, Any] | None, current: Mapping[str, Any], run: Path) -> None:
    """Compare the ``partition.json`` of ``run`` with the record of its data as they are now; None: there is none yet.

    Raises DataError that says what differs.
    """
    found = [] if recorded is None else differences(recorded, current)
    if found:
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        raise DataError(
            f"the data of run '{printable(run)}' are not those that it was begun with: {'; '.join(found[:LISTED])}"
            f"{more}. Bring the old data back, or begin a new run"
        )


def differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What differs between two partition records, the gravest first. A part that one of them lacks, as records of
    promptfed 0.1 lack the contents, is not compared."""
    found = []
    for part, kind in (("classes", "class"), ("new_classes", "new class")):
        if part in recorded and part in current:
            found += _names(kind, recorded[part], current[part])
    if found:  # labels mean something else: all that follows differs, too
        return found
    before, now = recorded.get("clients", []), current.get("clients", [])
    found += _names("client", [row.get("name") for row in before], [row.get("name") for row in now])
    if found:
        return found
    contents = [record.get("content") or {} for record in (recorded, current)]
    old, new = (dict(enumerate(content.get("clients", []))) for content in contents)
    for k, (one, other) in enumerate(zip(before, now, strict=True)):
        name = printable(one.get("name"), NAME_LIMIT)
        if changed := [use for use in ("train", "val", "test") if one.get(use) != other.get(use)]:
            use = changed[0]
            found.append(
                f"{name} has {_total(other, use)} {use} examples, not {_total(one, use)}"
                if _total(one, use) != _total(other, use)
                else f"{name} has other {use} examples"
            )
        elif k in old and k in new and old[k] != new[k]:
            found.append(f"{name} has other examples")
    tests = [content.get("tests") for content in contents]
    if None not in tests and tests[0] != tests[1]:
        found.append("the test examples are others")
    return found


def _names(kind: str, before: Sequence[Any], now: Sequence[Any]) -> list[str]:
    if list(before) == list(now):
        return []
    gone, come = ([name for name in one if name not in other] for one, other in ((before, now), (now, before)))
    if not gone and not come:
        return [f"the order of the {kind}{'es' if kind.endswith('s') else 's'} is another"]
    said = []
    if gone:
        said.append(f"no {kind} {_listed(gone)} any more")
    if come:
        said.append(f"{kind} {_listed(come)} is new")
    return [", and ".join(said)]


def _listed(names: Sequence[Any]) -> str:
    shown = ", ".join(f"'{printable(name, NAME_LIMIT)}'" for name in names[:LISTED])
    return shown + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _total(row: Mapping[str, Any], use: str) -> int:
    return sum(row.get(use) or ())


def _client_digest(data: ClientData) -> str:
    return _digest({"train": data.train, "val": data.val, "test": data.test})


def _digest(splits: Mapping[str, Split]) -> str:
    """SHA-256 of the examples and labels of each split, in any order of the examples."""
    lines = []
    for use, split in splits.items():
        labels = split.labels.tolist()
        ids = [item.content_id() for item in split.items] or [""] * len(labels)
        lines += sorted(f"{use}|{label}|{content}" for label, content in zip(labels, ids, strict=True))
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
