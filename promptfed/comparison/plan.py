"""What a comparison runs: every method on every seed, and before that the same small search for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from promptfed.config import Options, RunConfig, parse_settings, validate
from promptfed.errors import ConfigError, unknown_name
from promptfed.experiment import resolve
from promptfed.method import METHODS
from promptfed.named_model import usual_model
from promptfed.printable import LONGEST, printable
from promptfed.run_metrics import BASELINES

TUNING_SEED = 1000
"""Seed, and partition seed, of the search: no seed that is compared."""


MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Plan:
    """``methods`` on seeds ``base.seed``, ``base.seed + 1``, ...; the baselines are always among the methods, first: on
    a black box only zero_shot, as local-only is a method of white boxes there.

    The partition seed rises along with the seed, unless ``fix_partition``. ``grid``: method option -> values to search.
    A method is given those options of ``base`` and ``grid`` that it knows. Make one by ``make``, which checks it all.
    """

    base: RunConfig
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    fix_partition: bool = False
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

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
        """Raises ConfigError for an unknown method, an option that no method has, or a bad value of one."""
        model = usual_model(base)
        fitting = [name for name in METHODS if model.fits(METHODS[name].access)]
        wanted = fitting if list(methods) == ["all"] else list(methods)
        names = tuple(dict.fromkeys([*(name for name in BASELINES if name in fitting), *wanted]))
        if twice := [name for name in wanted if wanted.count(name) > 1]:
            raise ConfigError(f"method '{twice[0]}' is named {wanted.count(twice[0])} times: name every method once")
        if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
            raise ConfigError(
                f"seeds is {printable(repr(seeds), LONGEST)}: compare on one seed or more, {MOST_SEEDS:,} at most"
            )
        last = {"seed": base.seed + seeds - 1, "partition_seed": base.partition_seed + seeds - 1}
        validate(RunConfig, {**base.model_dump(), **last}, "the last of --seeds: option")
        plan = cls(base, names, tuple(range(base.seed, base.seed + seeds)), fix_partition, dict(grid or {}))
        if plan.grid and TUNING_SEED in plan.seeds:
            raise ConfigError(f"seed {TUNING_SEED} is reserved for the search: choose another --seed")
        known = {option for name in names for option in METHODS[name].Config.model_fields}
        for option in (*base.method_options, *plan.grid):
            if option not in known:
                raise unknown_name("option of the compared methods", option, known)
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
        return Plan(base, self.methods, self.seeds, self.fix_partition, self.grid)

    def config(self, method: str, seed: int, tuned: Mapping[str, Any] | None = None) -> RunConfig:
        """The options of one run. Raises ConfigError if ``method`` does not go with the aggregator."""
        partition = 0 if self.fix_partition else seed - self.base.seed
        return self._config(method, seed, self.base.partition_seed + partition, tuned or {})

    def tuning_config(self, method: str, values: Mapping[str, Any]) -> RunConfig:
        """The options of one trial of the search, on a partition of its own (the fixed one with ``fix_partition``)."""
        partition_seed = self.base.partition_seed if self.fix_partition else TUNING_SEED
        return self._config(method, TUNING_SEED, partition_seed, values)

    def _config(self, method: str, seed: int, partition_seed: int, tuned: Mapping[str, Any]) -> RunConfig:
        known = METHODS[method].Config.model_fields
        options = {name: value for name, value in {**self.base.method_options, **tuned}.items() if name in known}
        changed: Options = {"method": method, "method_options": options, "seed": seed, "partition_seed": partition_seed}
        if method in BASELINES:  # as in a run of their own: nothing to merge or to send, and no client fails
            changed |= {"aggregator": None, "aggregator_options": {}, "processors": ()}
            changed |= {"dropout": 0.0, "round_seconds": None}
        return resolve(self.base.model_copy(update=changed))

    def variants(self, method: str) -> list[dict[str, Any]]:
        """Every combination of the grid's values that ``method`` knows options of; none if it knows none."""
        known = METHODS[method].Config.model_fields
        grid = {option: values for option, values in self.grid.items() if option in known}
        return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())] if grid else []

    @property
    def runs(self) -> list[tuple[str, int]]:
        """(method, seed) in the order in which they run: seed by seed, so that a seed's data are loaded once."""
        return [(method, seed) for seed in self.seeds for method in self.methods]

    @property
    def trials(self) -> list[tuple[str, dict[str, Any]]]:
        """(method, values) of the search."""
        return [(method, values) for method in self.methods for values in self.variants(method)]


def parse_grid(searches: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """``["method.lr=0.01,0.03"]`` -> ``{"lr": (0.01, 0.03)}``. Raises ConfigError that shows the right form."""
    grid: dict[str, tuple[Any, ...]] = {}
    for search in searches:
        key, _, values = search.partition("=")
        section, dot, name = key.partition(".")
        if section != "method" or not dot or not name or not values:
            raise ConfigError(f"--search '{search}' must look like method.OPTION=VALUE,VALUE: method.lr=0.003,0.01")
        if name in grid:
            raise ConfigError(f"--search {key} is given twice: put all its values into one, --search {key}=VALUE,VALUE")
        read = (parse_settings([f"{key}={value}"])["method_options"][name] for value in values.split(","))
        grid[name] = tuple(read)
    return grid


def words(values: Mapping[str, Any]) -> str:
    """``{"lr": 0.01}`` -> ``"lr=0.01"``: names a trial, also its folder."""
    return ",".join(f"{name}={value}" for name, value in values.items()).replace("/", "_")
