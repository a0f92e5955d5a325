"""Which client holds which examples, as flat arrays: in memory for a few clients, in a mapped file for many.

The file lies in the cache folder under the hash of all that decides it, so every process of a run opens the same one.
"""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptfed.cache_dir import cache_folder
from promptfed.errors import FormatError
from promptfed.files.atomic import naming
from promptfed.files.mapped_arrays import Array, map_arrays, write_arrays
from promptfed.files.text_column import are_ends, packed_text, packed_texts
from promptfed.tasks.client_assignment import ClientAssignment
from promptfed.tasks.few_shot import FewShotSplit
from promptfed.tasks.sources.base import Source

FORMAT = "1"
MANY_CLIENTS = 500
"""More clients than these are kept in a file."""
FOLDER = "partitions"
DEALING = ("seeding.py", "tasks/few_shot.py", "tasks/partitioning.py", "tasks/clip_fewshot.py", "tasks/client_index.py")
"""Files whose code decides what clients are dealt."""
LIBRARIES = ("numpy", "flwr-datasets")
"""Packages that draw."""

log = logging.getLogger(__name__)


class ClientIndex:
    """Each client's positions in the source's samples, its name and its domain.

    Attributes:
        arrays: ``positions`` int32 ``(examples,)``, those of client 0's training, validation and test examples, then
            those of client 1 ...; ``ends`` int64 ``(3 * clients + 1,)``, where each of these parts ends; ``texts``
            uint8 and ``text_ends`` int64 ``(2 * clients + 1,)``, names and domains in turn.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = arrays
        self._positions, self._ends = arrays["positions"], arrays["ends"].astype(np.int64, copy=False)
        self._texts: Any = arrays["texts"]
        self._text_ends: Any = arrays["text_ends"]

    @classmethod
    def of(cls, assignments: Iterable[ClientAssignment]) -> ClientIndex:
        """Make the index of clients, in their order; each assignment is let go at once."""
        positions, ends, names = array("i"), array("q", [0]), list[str]()
        for assignment in assignments:
            for part in (assignment.drawn.train, assignment.drawn.val, assignment.test):
                positions.extend(part)
                ends.append(len(positions))
            names += [assignment.name, assignment.domain]
        texts, text_ends = packed_texts(names)
        return cls(
            {
                "positions": np.array(positions, dtype=np.int32),
                "ends": np.array(ends, dtype=np.int64),
                "texts": texts,
                "text_ends": text_ends,
            }
        )

    @classmethod
    def open(cls, path: Path, key: str, samples: int) -> ClientIndex:
        """Map the file that ``save`` wrote for ``key``, of a source with so many ``samples``.

        Raises:
            FormatError: It is another file than was written.
            OSError: The operating system cannot read it.
        """
        arrays, about = map_arrays(path)
        if about.get("key") != key or set(arrays) != {"positions", "ends", "texts", "text_ends"}:
            raise FormatError(f"'{path}' is not the partition that its name says")
        parts, texts = len(arrays["ends"]) - 1, len(arrays["text_ends"]) - 1
        positions = arrays["positions"]
        if (
            3 * texts != 2 * parts
            or not are_ends(arrays["ends"].astype(np.int64, copy=False), parts, len(positions))
            or not are_ends(arrays["text_ends"].astype(np.int64, copy=False), texts, len(arrays["texts"]))
            or (len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < samples)
        ):
            raise FormatError(f"'{path}' holds positions that the data do not have")
        return cls(arrays)

    def save(self, path: Path, key: str) -> None:
        """Write the index of ``key``, whole or not at all. Raises DiskError."""
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(path, self.arrays, {"format": FORMAT, "key": key})

    def __len__(self) -> int:
        return (len(self._ends) - 1) // 3

    def name(self, client: int) -> str:
        return packed_text(self._texts, self._text_ends, 2 * client)

    def domain(self, client: int) -> str:
        return packed_text(self._texts, self._text_ends, 2 * client + 1)

    def sizes(self) -> NDArray[np.int64]:
        """Return ``(clients, 3)``: how many training, validation and test examples each client has."""
        return np.diff(self._ends).reshape(-1, 3)

    def assignment(self, client: int) -> ClientAssignment:
        """Return what client number ``client`` was dealt."""
        first, middle, last, end = self._ends[3 * client : 3 * client + 4].tolist()
        train, val, test = (self._positions[a:b].tolist() for a, b in ((first, middle), (middle, last), (last, end)))
        return ClientAssignment(self.name(client), FewShotSplit(train, val), test, self.domain(client))


def client_index(
    deal: Callable[[], Iterable[ClientAssignment]], clients: int | None, source: Source, decides: Mapping[str, Any]
) -> ClientIndex:
    """Return the index of what ``deal`` deals out; of many clients from the cache folder, if it is there.

    Args:
        deal: Deals the samples of ``source`` to clients.
        clients: Their number, if it is known before; None is few.
        source: The data.
        decides: Everything else that ``deal`` depends on, as plain values.
    """
    if clients is None or clients <= MANY_CLIENTS:
        return ClientIndex.of(deal())
    key = partition_key(source, decides)
    path = cache_folder() / FOLDER / f"{key}.safetensors"
    try:
        return ClientIndex.open(path, key, len(source.samples))
    except FileNotFoundError:
        pass
    except (FormatError, OSError) as error:
        log.warning("a partition in the cache cannot be used (%s): it is drawn again", error)
    index = ClientIndex.of(deal())
    try:
        index.save(path, key)
        return ClientIndex.open(path, key, len(source.samples))
    except (FormatError, OSError) as error:
        log.warning("a partition cannot be kept in the cache (%s): it stays in memory", error)
        return index


def partition_key(source: Source, decides: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all that decides a partition: labels, domains, options, and the code that draws."""
    digest = hashlib.sha256(
        repr((FORMAT, sorted(decides.items()), source.classes, source.by_client)).encode("utf-8", "surrogateescape")
    )
    for sample in source.samples:
        digest.update(f"{sample.label}|{sample.split}|{sample.domain}\n".encode("utf-8", "surrogateescape"))
    package = Path(__file__).resolve().parent
    for name in DEALING:
        file = package / name.removeprefix("tasks/") if name.startswith("tasks/") else _package_folder() / name
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    for library in LIBRARIES:
        digest.update(f"{library} {_version(library)}\n".encode())
    return digest.hexdigest()


def _package_folder() -> Path:
    import promptfed

    assert promptfed.__file__ is not None
    return Path(promptfed.__file__).parent


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
