"""Series of stations: a folder with a CSV file for each, a row a step, a column a variable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from promptfed.errors import DataError, FormatError
from promptfed.printable import printable
from promptfed.readers.csv_table import read_table
from promptfed.tasks.sources.unreadable import check_folder, why_unreadable

HIGHEST = 1e30
"""Largest number, so that squares stay finite."""
LARGEST = 200_000_000
"""Bytes of a file."""
TIMES = ("time", "date", "datetime", "timestamp")
"""Names of the column that says when a row was measured, as ISO 8601; it need not be there."""
MISSING = ("", "na", "nan", "null", "none", "-")
"""How files write a value that is not there."""
LISTED = 8


@dataclass(frozen=True, eq=False)
class Station:
    """What a station measured: ``values`` ``(steps, variables)``, float64, in its own units; NaN: a gap."""

    name: str
    variables: tuple[str, ...]
    values: npt.NDArray[np.float64]


def read_stations(folder: str, variables: Sequence[str] | None = None) -> list[Station]:
    """Read every ``*.csv`` of ``folder``, in the order of their names, which are the stations'.

    Args:
        folder: Its path.
        variables: The columns that are read; None: all but that of the time.

    Raises:
        DataError: There are fewer than two files, a column is missing or holds a text, files differ in their columns,
            or times are not one step apart.
    """
    place = Path(folder).expanduser()
    check_folder(place, "give a folder with a CSV file for each station")
    files = sorted(place.glob("*.csv"))
    if len(files) < 2:
        raise DataError(
            f"folder '{printable(place)}' holds {len(files)} CSV files, and a federation needs two stations or more: "
            "put a file for each station there"
        )
    stations = [_read(file, variables) for file in files]
    first = stations[0]
    for station, file in zip(stations, files, strict=True):
        if station.variables != first.variables:
            raise DataError(
                f"'{printable(file)}' has columns {', '.join(map(printable, station.variables))}, and "
                f"'{printable(files[0])}' has {', '.join(map(printable, first.variables))}: give all stations the "
                "same, or choose (--set 'task.variables=[A,B]')"
            )
        if len(station.values) != len(first.values):
            raise DataError(
                f"'{printable(file)}' has {len(station.values)} rows, and '{printable(files[0])}' has "
                f"{len(first.values)}: rows of all stations are the same times, so cut them to the same length"
            )
    return stations


def _read(file: Path, variables: Sequence[str] | None) -> Station:
    try:
        columns, rows = read_table(file, LARGEST)
    except (OSError, FormatError) as error:
        raise DataError(f"cannot read station '{printable(file)}': {why_unreadable(error)}") from error
    wanted = [name.lower() for name in variables or ()] or [name for name in columns if name not in TIMES]
    if absent := [name for name in wanted if name not in columns]:
        raise DataError(
            f"'{printable(file)}' has no column '{printable(absent[0])}': it has "
            f"{', '.join(map(printable, columns[:LISTED]))}"
        )
    if not rows or not wanted:
        raise DataError(f"'{printable(file)}' holds no {'rows' if wanted else 'column besides the time'}")
    values = np.empty((len(rows), len(wanted)))
    for place, (line, row) in enumerate(rows):
        for column, name in enumerate(wanted):
            values[place, column] = _number(row[name], file, line, name)
    if time := next((name for name in columns if name in TIMES), ""):
        _check_times([(line, row[time]) for line, row in rows], file, time)
    return Station(file.stem, tuple(wanted), values)


def _number(text: str, file: Path, line: int, column: str) -> float:
    if text.lower() in MISSING:
        return float("nan")
    try:
        value = float(text)
    except ValueError:
        value = float("inf")
    if abs(value) > HIGHEST:
        raise DataError(
            f"'{printable(file)}' line {line}, column '{printable(column)}' is '{printable(text, 40)}', which is no "
            f"number up to {HIGHEST:g}: correct it, or choose the columns to read (--set 'task.variables=[A,B]')"
        )
    return value


def _check_times(times: Sequence[tuple[int, str]], file: Path, column: str) -> None:
    """Raise DataError unless the times are one step apart."""
    try:
        stamps = np.array([text.replace("Z", "") for _, text in times], dtype="datetime64[s]")
    except ValueError as error:
        raise DataError(
            f"'{printable(file)}', column '{column}': {printable(error, 80)}; write times as 2013-03-01T00:00, or "
            "leave the column out"
        ) from error
    steps = np.diff(stamps.astype(np.int64))
    if len(steps) and (wrong := np.flatnonzero(steps != steps[0])).size:
        line, text = times[int(wrong[0]) + 1]
        raise DataError(
            f"'{printable(file)}' has a gap: line {line} ({printable(text, 40)}) is {int(steps[wrong[0]])} seconds "
            f"after the row before, and the first step is {int(steps[0])}: put in rows with empty values, and see "
            "--set task.fill"
        )


def filled(station: Station, most: int) -> tuple[Station, int]:
    """Return ``station`` with gaps of up to ``most`` steps filled by the last value, and how many values that are.

    Raises:
        DataError: A gap is longer.
    """
    values, count = station.values.copy(), 0
    for column, name in enumerate(station.variables):
        row, series = 0, values[:, column]
        while row < len(series):
            if not np.isnan(series[row]):
                row += 1
                continue
            end = row
            while end < len(series) and np.isnan(series[end]):
                end += 1
            if end - row > most or (row == 0 and end == len(series)):
                length = f"{end - row} steps" if end - row > 1 else "one step"
                raise DataError(
                    f"station '{printable(station.name)}' has a gap of {length} in '{printable(name)}' from "
                    f"row {row + 1} on: complete it, or have gaps of up to N steps filled by the last value "
                    "(--set task.fill=N)"
                )
            series[row:end] = series[row - 1] if row else series[end]
            count += end - row
            row = end
    return Station(station.name, station.variables, values), count
