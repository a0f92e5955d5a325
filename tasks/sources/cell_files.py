"""Cells of one's own: a folder with ``cells.json``, and for each cell a CSV file of logged episodes if there is one.

``cells.json`` is a list of objects with ``name``, ``preferred``, ``snr``, ``gaze`` and ``rate``
(promptfed/allocation/cell.py). A log ``NAME.csv`` has a row for each slot, with the columns ``episode``, ``reward``,
``tiles_0`` to ``tiles_11``, ``change_0`` to ``change_3``, ``index_0`` to ``index_11`` and ``share_0`` to ``share_3``.
Users come first, levels second.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from promptfed.allocation.cell import (
    HIGHEST,
    LEVELS,
    LOWEST,
    RESOLUTIONS,
    TILES,
    USERS,
    Cell,
    Floats,
    Trace,
    as_actions,
    as_allocation,
)
from promptfed.errors import DataError, FormatError
from promptfed.examples.episodes import Log
from promptfed.printable import printable
from promptfed.readers.csv_table import read_table
from promptfed.readers.json_reader import read_json
from promptfed.tasks.sources.unreadable import why_unreadable

FILE = "cells.json"
LARGEST = 100_000_000
"""Bytes of a log."""
SHORTEST = 10
"""Slots of an episode."""
CHOICES = USERS * LEVELS
COLUMNS = (
    "reward",
    *(f"tiles_{number}" for number in range(CHOICES)),
    *(f"change_{number}" for number in range(USERS)),
    *(f"index_{number}" for number in range(CHOICES)),
    *(f"share_{number}" for number in range(USERS)),
)
Index = Annotated[int, Field(ge=0, lt=len(RESOLUTIONS))]
Decibels = Annotated[float, Field(ge=-20, le=50)]
Positive = Annotated[float, Field(gt=0, le=1e6)]


class WrittenCell(BaseModel):
    """A cell as a file has it."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=100, pattern=r"^[\w .-]+$")
    preferred: tuple[tuple[Index, Index, Index], ...] = Field(min_length=USERS, max_length=USERS)
    snr: tuple[Decibels, ...] = Field(min_length=USERS, max_length=USERS)
    gaze: tuple[Positive, Positive, Positive]
    rate: Positive


def read_cells(folder: str) -> list[tuple[Cell, list[Log] | None]]:
    """Read the cells of ``folder`` in their order, each with its logged episodes; None: it has no log.

    Raises:
        DataError: A file is missing, a number is none or out of range, or names are not of one cell each.
    """
    place = Path(folder).expanduser()
    try:
        written = TypeAdapter(list[WrittenCell]).validate_python(read_json(place / FILE))
    except (OSError, FormatError) as error:
        raise DataError(f"cannot read '{printable(place / FILE)}': {why_unreadable(error)}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        number, *inside = first["loc"] or ("",)
        where = f", cell {int(number) + 1}" if first["loc"] else ""
        field = f", {'.'.join(map(str, inside))}" if inside else ""
        value = "" if first["type"] == "missing" else f" is {printable(repr(first['input']), 80)}"
        raise DataError(
            f"'{printable(place / FILE)}'{where}{printable(field)}{value}: {_lower(first['msg'])}; the file is a list "
            "of cells with name, preferred (4 x 3 indices from 0 to 3), snr (4, in dB), gaze (3, above 0) and rate "
            "(Mbit a second)"
        ) from error
    names = [cell.name for cell in written]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(
            f"'{printable(place / FILE)}' has cell '{printable(twice[0])}' twice: give each a name of its own"
        )
    return [(_cell(one), _log(place / f"{one.name}.csv")) for one in written]


def _lower(text: str) -> str:
    return printable(text[:1].lower() + text[1:])


def _cell(one: WrittenCell) -> Cell:
    numbers = np.array(one.preferred, dtype=np.int64), np.array(one.snr), np.array(one.gaze)
    return Cell(one.name, *numbers, one.rate)


def _log(file: Path) -> list[Log] | None:
    if not file.exists():
        return None
    try:
        columns, rows = read_table(file, LARGEST)
    except (OSError, FormatError) as error:
        raise DataError(f"cannot read log '{printable(file)}': {why_unreadable(error)}") from error
    if absent := [name for name in ("episode", *COLUMNS) if name not in columns]:
        raise DataError(f"log '{printable(file)}' has no column '{absent[0]}'")
    logs = []
    for episode, some in groupby(rows, key=lambda pair: pair[1]["episode"]):
        slots = [(line, _numbers(row, file, line)) for line, row in some]
        if len(slots) < SHORTEST:
            raise DataError(
                f"log '{printable(file)}', episode '{printable(episode, 40)}' has {len(slots)} slots, and one needs "
                f"{SHORTEST}"
            )
        logs.append(_episode(slots, file))
    if not logs:
        raise DataError(f"log '{printable(file)}' has no row: fill it, or take it away")
    return logs


def _numbers(row: dict[str, str], file: Path, line: int) -> Floats:
    values = np.empty(len(COLUMNS))
    for place, name in enumerate(COLUMNS):
        try:
            values[place] = float(row[name])
        except ValueError:
            values[place] = np.nan
        if not np.isfinite(values[place]):
            raise DataError(
                f"log '{printable(file)}' line {line}, column '{name}' is '{printable(row[name], 40)}', which is no "
                "number"
            )
    if not LOWEST <= values[0] <= HIGHEST:
        raise DataError(
            f"log '{printable(file)}' line {line} has a reward of {values[0]:g}: rewards are QoE, {LOWEST:g} to "
            f"{HIGHEST:g}, so scale them"
        )
    tiles = values[1 : 1 + CHOICES].reshape(USERS, LEVELS)
    if (tiles < 0).any() or (tiles != np.round(tiles)).any() or (tiles.sum(1) != TILES).any():
        raise DataError(f"log '{printable(file)}' line {line}: each user has {TILES} tiles in all")
    return values


def _episode(slots: Sequence[tuple[int, Floats]], file: Path) -> Log:
    values = np.stack([numbers for _, numbers in slots])
    for line, numbers in slots:
        try:
            as_allocation(numbers[1 + CHOICES + USERS :])
        except ValueError as error:
            raise DataError(f"log '{printable(file)}' line {line}: {error}") from error
    tiles = values[:, 1 : 1 + CHOICES].reshape(-1, USERS, LEVELS).astype(np.int64)
    change = values[:, 1 + CHOICES : 1 + CHOICES + USERS]
    done = as_actions(as_allocation(values[:, 1 + CHOICES + USERS :]))
    return Log(Trace(tiles, change, change).observations, done, values[:, 0].astype(np.float32))
