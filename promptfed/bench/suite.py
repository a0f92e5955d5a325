"""A suite: comparisons with their options, budgets and published figures, read from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from promptfed.comparison.plan import Plan
from promptfed.config import build_config, in_sections, read_yaml, validate
from promptfed.errors import ConfigError, MissingPackageError, PromptFedError, unknown_name
from promptfed.oracle_options import OracleOptions
from promptfed.printable import printable

FOLDER = Path(__file__).with_name("suites")
FIGURES = ("local", "local_all", "base", "new", "hm")
PROTOCOL = ("backbone", "oracle", "data", "clients", "rounds", "shots", "partition", "participation", "seeds")
"""What two figures must agree in to be comparable."""


class Published(BaseModel):
    """A figure of a paper, and how it came about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(description="the method's name here")
    value: float = Field(description="in percent, or in the measure's unit")
    source: str = Field(min_length=1, description="paper and table")
    protocol: Mapping[str, str | int | float] = Field(description=f"any of {', '.join(PROTOCOL)}")


class Entry(BaseModel):
    """One comparison of a suite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(min_length=1)
    methods: tuple[str, ...] = Field(min_length=1)
    options: Mapping[str, Any] = Field({}, description="as in a config file")
    figure: str = Field("base", description=f"{', '.join(FIGURES)}; of another measure MEASURE/base")
    needs: str = Field("", description="what the user must have: data, an extra")
    partitions: Mapping[int, str] = Field({}, description="seed -> SHA-256 of the examples that each client holds")
    published: tuple[Published, ...] = ()

    def plan(self, seeds: int, data_root: str | None, threads: int | None) -> Plan:
        """Return the comparison.

        Args:
            seeds: The number of seeds, from 0 on.
            data_root: Where the user's data are; None: where the options say.
            threads: Of the CPU; None: as usual.

        Raises:
            ConfigError: An option or a method is wrong.
        """
        given = {"data_root": data_root, "threads": threads}
        options = in_sections(self.options, OracleOptions.model_fields)
        base = build_config(options, {name: value for name, value in given.items() if value is not None})
        return Plan.make(base, self.methods, seeds)


class Suite(BaseModel):
    """A named list of comparisons."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = Field(min_length=1)
    time: str = Field(min_length=1, description="how long it takes, and where")
    seeds: int = Field(3, ge=1)
    jobs: int = Field(1, ge=1, description="comparisons at a time, where the machine has as many cores")
    entries: Mapping[str, Entry] = Field(min_length=1)

    def check(self, only: str | None, seeds: int, data_root: str | None, threads: int | None) -> None:
        """Raise ConfigError, which names the entry, for a task, method or option that is unknown or wrong.

        Data, weights and extras that are missing are no fault of the suite: what lacks them is left out when it runs.
        """
        for key, entry in self.chosen(only).items():
            try:
                entry.plan(seeds, data_root, threads)
            except PromptFedError as problem:
                if isinstance(problem, ConfigError) and not isinstance(problem, MissingPackageError):
                    raise ConfigError(f"entry '{key}' of the suite: {problem}") from problem

    def chosen(self, only: str | None) -> dict[str, Entry]:
        """Return the entries named in ``only``, with commas between them; None: all.

        Raises:
            ConfigError: There is no such entry.
        """
        names = [name.strip() for name in (only or "").split(",") if name.strip()] or list(self.entries)
        for name in names:
            if name not in self.entries:
                raise unknown_name("entry of the suite", name, self.entries)
        return {name: self.entries[name] for name in names}


def suite_names() -> list[str]:
    """Return the names of the suites that promptfed brings along, the smallest first."""
    order = ("mini", "text", "photos", "coop", "apps")
    names = {path.stem for path in FOLDER.glob("*.yaml")}
    return [*(name for name in order if name in names), *sorted(names.difference(order))]


def load_suite(name: str) -> Suite:
    """Return a suite by its name, or that of a user's own YAML file.

    Raises:
        ConfigError: There is none, or its content is wrong.
    """
    is_file = name.endswith((".yaml", ".yml"))
    if not is_file and name not in suite_names():
        raise unknown_name("suite", name, suite_names())
    path = Path(name) if is_file else FOLDER / f"{name}.yaml"
    suite = validate(Suite, read_yaml(path, "suite"), f"suite '{printable(name, 80)}': option")
    for key, entry in suite.entries.items():
        if not key.isidentifier():
            raise ConfigError(
                f"suite '{printable(name, 80)}': name entries by letters, digits and _, not '{printable(key, 40)}'"
            )
        part = entry.figure.rpartition("/")[2]
        if part not in FIGURES:
            raise unknown_name(f"figure of entry '{key}'", part, FIGURES)
        for published in entry.published:
            for protocol_key in published.protocol:
                if protocol_key not in PROTOCOL:
                    raise unknown_name("key of a protocol", protocol_key, PROTOCOL)
    return suite
