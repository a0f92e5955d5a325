"""Cells of an attack table that are on disk, so that a table goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from promptfed.config import RunConfig
from promptfed.errors import ConfigError, FormatError
from promptfed.files import strict_json
from promptfed.files.atomic import write_text
from promptfed.printable import printable
from promptfed.same_options import what_counts


@dataclass(frozen=True)
class Cell:
    """One attack under one rule, mean over the seeds.

    Attributes:
        attack: As it was named.
        rule: The aggregator.
        base: Base accuracy of the shared prompt after the last round, in 0..1; None if the run could not be made.
        refused: Updates of all rounds and seeds that the server did not merge.
        asr: Share of non-target test images with a trigger that get the target; None but for a backdoor.
        asr_clean: The same without the attack, under the same rule.
        problem: Why there is no figure.
    """

    attack: str
    rule: str
    base: float | None
    refused: int = 0
    asr: float | None = None
    asr_clean: float | None = None
    problem: str = ""

    def recorded(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


class SavedCells:
    """The cells of each seed, in memory and, if ``path`` is given, in a file that is written after each of them.

    Args:
        path: A JSON file, which another table's cells must not be in.
        config: The options of the runs.
        malicious: The share of malicious clients.

    Raises:
        ConfigError: The file has cells of other options.
        FormatError: The file is damaged.
    """

    def __init__(self, path: Path | None, config: RunConfig, malicious: float) -> None:
        options = {**what_counts(config), "malicious": malicious}
        options["partition_seed"] = config.partition_seed - options.pop("seed")  # counted from the seed, which rises
        # Through JSON and back, as the file has it: tuples are lists there.
        self.path, self.options = path, json.loads(strict_json.dumps(options))
        self._cells: dict[tuple[int, str, str], Cell] = {}
        if path is not None and path.exists():
            self._read(path)

    def get(self, seed: int, rule: str, attack: str) -> Cell | None:
        """Return the cell of one seed, None if it is not there."""
        return self._cells.get((seed, rule, attack))

    def add(self, seed: int, cell: Cell) -> None:
        """Keep the cell of one seed. A cell without a figure is not written: the next try may have one."""
        self._cells[seed, cell.rule, cell.attack] = cell
        if self.path is None or cell.problem:
            return
        rows = [{"seed": key[0], **each.recorded()} for key, each in self._cells.items() if not each.problem]
        write_text(self.path, strict_json.dumps({"options": self.options, "cells": rows}, indent=2) + "\n")

    def _read(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            options, rows = content["options"], content["cells"]
            cells = [(int(row["seed"]), Cell(**{k: v for k, v in row.items() if k != "seed"})) for row in rows]
        except OSError as error:
            raise ConfigError(f"cannot read '{path}': {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FormatError(f"'{path}' is no file of an attack table: remove it, or choose another --out") from error
        if other := _difference(options, self.options):
            raise ConfigError(f"'{path.parent}' holds a table of other options ({other}): choose another --out")
        self._cells = {(seed, cell.rule, cell.attack): cell for seed, cell in cells}


def _difference(before: Any, now: Mapping[str, Any]) -> str:
    """Return the first option that differs, as ``rounds: 8, now 20``; nothing if all agree."""
    if not isinstance(before, dict):
        return "it names none"
    for name in dict.fromkeys([*before, *now]):
        if before.get(name) != now.get(name):
            return f"{printable(name)}: {printable(repr(before.get(name)))}, now {printable(repr(now.get(name)))}"
    return ""
