"""Rows of partition.json as arrays in a file of their own, where there are so many that JSON would not be read back."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from promptfed.errors import FormatError, RunError
from promptfed.files.mapped_arrays import SEAL, Array, map_arrays, write_arrays
from promptfed.files.text_column import are_ends, packed_text, packed_texts
from promptfed.printable import printable

FILE = "clients.safetensors"
FORMAT = "1"
USES = ("train", "val", "test")
DIGEST_BYTES = 32
COLUMNS = ("client", "cells", "counts", "ends", "texts", "text_ends", "digests")


class ClientRows(Sequence[dict[str, Any]]):
    """Each client's number, name, domain, and examples by class, as ``partition_table`` has them; made on access.

    Attributes:
        classes: The number of base classes.
        arrays: ``client`` int32 ``(n,)``; ``cells`` and ``counts`` int32 ``(entries,)``, classes and how many examples
            of them; ``ends`` int64 ``(3 * n + 1,)``, where the entries of each use of each client end; ``texts`` uint8
            and ``text_ends`` int64 ``(2 * n + 1,)``, names and domains; ``digests`` uint8 ``(n, 32)``, the SHA-256 of
            each client's examples.
        sha256: The checksum of the file; empty for rows that are not from a file.
    """

    def __init__(self, classes: int, arrays: Mapping[str, Array], sha256: str = "") -> None:
        self.classes, self.arrays, self.sha256 = classes, arrays, sha256

    @classmethod
    def of(cls, classes: int, rows: Iterable[tuple[dict[str, Any], str]]) -> ClientRows:
        """Make the arrays of pairs (row, hex SHA-256 of its examples); each is let go at once."""
        numbers, cells, counts, ends = array("i"), array("i"), array("i"), array("q", [0])
        texts, digests = list[str](), bytearray()
        for row, digest in rows:
            numbers.append(row["client"])
            texts += [row["name"], row["domain"]]
            digests += bytes.fromhex(digest)
            for use in USES:
                for cell, count in enumerate(row[use]):
                    if count:
                        cells.append(cell)
                        counts.append(count)
                ends.append(len(cells))
        content, text_ends = packed_texts(texts)
        arrays: dict[str, Array] = {
            "client": np.array(numbers, dtype=np.int32),
            "cells": np.array(cells, dtype=np.int32),
            "counts": np.array(counts, dtype=np.int32),
            "ends": np.array(ends, dtype=np.int64),
            "texts": content,
            "text_ends": text_ends,
            "digests": np.frombuffer(bytes(digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES),
        }
        return cls(classes, arrays)

    @classmethod
    def open(cls, folder: Path, summary: Mapping[str, Any], classes: int) -> ClientRows:
        """Map the rows in ``folder`` that partition.json sums up.

        Raises:
            RunError: The file is not there, or not the one that was written.
        """
        path = folder / FILE
        try:
            arrays, about = map_arrays(path)
            if about[SEAL] != summary.get("sha256") or set(arrays) != set(COLUMNS):
                raise FormatError(f"'{printable(path)}' is not the one that partition.json was written with")
            count, entries = len(arrays["client"]), len(arrays["cells"])
            if not (
                len(arrays["counts"]) == entries
                and are_ends(_int64(arrays["ends"]), 3 * count, entries)
                and are_ends(_int64(arrays["text_ends"]), 2 * count, len(arrays["texts"]))
                and arrays["digests"].shape == (count, DIGEST_BYTES)
                and (not entries or 0 <= int(arrays["cells"].min()) <= int(arrays["cells"].max()) < classes)
            ):
                raise FormatError(f"'{printable(path)}' has columns that do not fit together")
        except (OSError, FormatError) as error:
            raise RunError(
                f"cannot use {printable(path)}: {error}; bring it back from a copy, or remove it with partition.json: "
                "promptfed train --resume writes both again"
            ) from error
        return cls(classes, arrays, about[SEAL])

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the rows to ``folder`` and return what partition.json says of them. Raises DiskError."""
        write_arrays(folder / FILE, self.arrays, {"format": FORMAT})
        _, about = map_arrays(folder / FILE)
        return {"file": FILE, "clients": len(self), "sha256": about[SEAL]}

    def __len__(self) -> int:
        return len(self.arrays["client"])

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        number = range(len(self))[index]
        if isinstance(number, range):
            return [self[k] for k in number]
        texts, text_ends = self.arrays["texts"], self.arrays["text_ends"]
        counts = {use: self._counts(number, k) for k, use in enumerate(USES)}
        return {
            "client": int(self.arrays["client"][number]),
            "name": packed_text(texts, text_ends, 2 * number),  # type: ignore[arg-type]
            "domain": packed_text(texts, text_ends, 2 * number + 1),  # type: ignore[arg-type]
            "one_class": sum(count > 0 for count in counts["train"]) == 1,
            **counts,
        }

    def digest(self, number: int) -> str:
        """Return the hex SHA-256 of the examples of client ``number``."""
        return bytes(self.arrays["digests"][number]).hex()

    def same_as(self, other: ClientRows) -> bool:
        """Return whether all columns are equal."""
        return all(np.array_equal(self.arrays[name], other.arrays[name]) for name in COLUMNS)

    def _counts(self, number: int, use: int) -> list[int]:
        begin, end = self.arrays["ends"][3 * number + use : 3 * number + use + 2].tolist()
        result = [0] * self.classes
        cells, counts = self.arrays["cells"][begin:end].tolist(), self.arrays["counts"][begin:end].tolist()
        for cell, count in zip(cells, counts, strict=True):
            result[cell] = count
        return result


def _int64(values: Array) -> NDArray[np.int64]:
    return values.astype(np.int64, copy=False)
