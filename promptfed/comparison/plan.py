"""The plan of a comparison: a small search for each method, and then every method on every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from promptfed.config import Options, RunConfig, parse_settings, validate
from promptfed.errors import ConfigError, unknown_name
from promptfed.method import METHODS
from promptfed.named_model import usual_model
from promptfed.printable import LONGEST, printable
from promptfed.report.tables import BASELINES
from promptfed.resolve import resolve
from promptfed.tasks.base import TASKS

TUNING_SEED = 1000
"""Seed and partition seed of the search. It is none of the compared seeds."""


MOST_SEEDS = 10_000
LOCAL_ONLY = "local_only"


@dataclass(frozen=True)
class Plan:
    """Methods, seeds and options of a comparison. ``make`` builds and checks one.

    Attributes:
        base: The options that all runs share. A method takes those method options that it has.
        methods: The methods. The task's baselines come first, as far as they are methods on the task's model.
        seeds: ``base.seed``, ``base.seed + 1``, ...
        fix_partition: Whether all seeds share one partition; otherwise the partition seed rises with the seed.
        grid: Method option -> the values to search.
        alone: The method whose runs have local-only as a stage, which is that method without a federation. Empty where
            local-only is a method like any other (on dual encoders), or where the task has none.
    """

    base: RunConfig
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    fix_partition: bool = False
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    alone: str = ""

    @classmethod
    def make(
        cls,
        base: RunConfig,
        methods: Sequence[str],
        seeds: int,
        *,
        fix_partition: bool = False,
        grid: Mapping[str, tuple[Any, ...]] | None = None,
    ) -> Plan:
        """Build a plan and check it.

        Args:
            base: The options that all runs share.
            methods: Names of methods, or "all" alone.
            seeds: The number of seeds.
            fix_partition: Whether all seeds share one partition.
            grid: Method option -> the values to search.

        Raises:
            ConfigError: A method is unknown, no method has an option, or a value is wrong.
        """
        model = usual_model(base)
        fitting = [name for name in METHODS if model.fits(METHODS[name])]
        chosen = fitting if list(methods) == ["all"] else list(methods)
        usual = TASKS[base.task].baselines
        alone = "" if LOCAL_ONLY in fitting or LOCAL_ONLY not in usual else _first_trained(chosen)
        if alone:
            chosen = [name for name in chosen if name != LOCAL_ONLY]
        names = tuple(dict.fromkeys([*(name for name in BASELINES if name in fitting and name in usual), *chosen]))
        if repeated := [name for name in chosen if chosen.count(name) > 1]:
            raise ConfigError(
                f"method '{repeated[0]}' is named {chosen.count(repeated[0])} times: name every method once"
            )
        if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
            raise ConfigError(
                f"seeds is {printable(repr(seeds), LONGEST)}: compare on one seed or more, {MOST_SEEDS:,} at most"
            )
        last = {"seed": base.seed + seeds - 1, "partition_seed": base.partition_seed + seeds - 1}
        validate(RunConfig, {**base.model_dump(), **last}, "the last of --seeds: option")
        plan = cls(base, names, tuple(range(base.seed, base.seed + seeds)), fix_partition, dict(grid or {}), alone)
        if plan.grid and TUNING_SEED in plan.seeds:
            raise ConfigError(f"seed {TUNING_SEED} is reserved for the search: choose another --seed")
        options = {option for name in names for option in METHODS[name].Config.option_names(base.method_options)}
        for option in (*base.method_options, *plan.grid):
            if option not in options:
                raise unknown_name("option of the compared methods", option, options)
        # The zero-shot run has the task's and the server's options and none of a method: what is wrong here is wrong
        # for all. The others' own options are checked by value; whether they fit the rest is found out one by one.
        plan.config("zero_shot", base.seed)
        plain = plan._without_server()
        for name in names:
            for values in plan.variants(name) or [{}]:
                plain.config(name, base.seed, values)
        return plan

    def _without_server(self) -> Plan:
        base = self.base.model_copy(update={"aggregator": None, "aggregator_options": {}})
        return replace(self, base=base)

    def config(self, method: str, seed: int, tuned: Mapping[str, Any] | None = None) -> RunConfig:
        """Return the options of one run.

        Args:
            method: The name of the method.
            seed: The seed of the run.
            tuned: The method options that the search has chosen.

        Raises:
            ConfigError: ``method`` does not go with the aggregator.
        """
        partition = 0 if self.fix_partition else seed - self.base.seed
        return self._config(method, seed, self.base.partition_seed + partition, tuned or {})

    def tuning_config(self, method: str, values: Mapping[str, Any]) -> RunConfig:
        """Return the options of one trial of the search, on the search's partition or the fixed one."""
        partition_seed = self.base.partition_seed if self.fix_partition else TUNING_SEED
        return self._config(method, TUNING_SEED, partition_seed, values)

    def _config(self, method: str, seed: int, partition_seed: int, tuned: Mapping[str, Any]) -> RunConfig:
        chosen = {**self.base.method_options, **tuned}
        fitting = METHODS[method].Config.option_names(chosen)
        options = {name: value for name, value in chosen.items() if name in fitting}
        changed: Options = {"method": method, "method_options": options, "seed": seed, "partition_seed": partition_seed}
        if method in BASELINES:  # as in a run of their own: nothing to merge, send or protect, and no client fails
            changed |= {"aggregator": None, "aggregator_options": {}, "processors": (), "attack_options": {}}
            changed |= {"dropout": 0.0, "round_seconds": None, "privacy_options": {}}
        return resolve(self.base.model_copy(update=changed))

    def variants(self, method: str) -> list[dict[str, Any]]:
        """Return every combination of the grid's values for the options that ``method`` has."""
        fields = METHODS[method].Config.option_names(self.base.method_options)
        grid = {option: values for option, values in self.grid.items() if option in fields}
        return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())] if grid else []

    @property
    def runs(self) -> list[tuple[str, int]]:
        """(method, seed) in the order of the runs: seed by seed, so that the data of a seed are loaded once."""
        return [(method, seed) for seed in self.seeds for method in self.methods]

    @property
    def trials(self) -> list[tuple[str, dict[str, Any]]]:
        """(method, values) of the search."""
        return [(method, values) for method in self.methods for values in self.variants(method)]


def _first_trained(methods: Sequence[str]) -> str:
    """Return the first of the methods that trains something and is no baseline; empty if there is none."""
    trained = (
        n for n in methods if n in METHODS and n not in BASELINES and not METHODS[n].trains.startswith("nothing")
    )
    return next(trained, "")


def parse_grid(searches: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Parse ``["method.lr=0.01,0.03"]`` into ``{"lr": (0.01, 0.03)}``. Raise ConfigError for any other form."""
    grid: dict[str, tuple[Any, ...]] = {}
    for search in searches:
        key, _, values = search.partition("=")
        section, dot, name = key.partition(".")
        if section != "method" or not dot or not name or not values:
            raise ConfigError(f"--search '{search}' must look like method.OPTION=VALUE,VALUE: method.lr=0.003,0.01")
        if name in grid:
            raise ConfigError(f"--search {key} is given twice: put all its values into one, --search {key}=VALUE,VALUE")
        parsed = (parse_settings([f"{key}={value}"])["method_options"][name] for value in values.split(","))
        grid[name] = tuple(parsed)
    return grid


def words(values: Mapping[str, Any]) -> str:
    """Turn ``{"lr": 0.01}`` into ``"lr=0.01"``, the name of a trial and of its folder."""
    return ",".join(f"{name}={value}" for name, value in values.items()).replace("/", "_")
