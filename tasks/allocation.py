"""The task ``allocation``: edge servers that render virtual reality allot resolutions and bandwidth to their users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field

from promptfed.allocation.cell import Cell
from promptfed.config import RunConfig, validate
from promptfed.errors import ConfigError, unknown_name
from promptfed.examples.base import Item
from promptfed.examples.episodes import ALLOCATION_CLASSES, EpisodeForm, EpisodeItem, Log
from promptfed.policies.dt_network import PIECE
from promptfed.scores import BETTER
from promptfed.tasks.base import TASKS, Task, TaskConfig
from promptfed.tasks.sources.cell_files import read_cells
from promptfed.tasks.sources.cells import episode_seeds, logged, region
from promptfed.types import ClientData, FederatedTask, Split

CELLS = "cells"
CLIENTS = 8
"""Cells that take part, if nobody says how many."""


class AllocationConfig(TaskConfig):
    """The cells, and the episodes in each."""

    episodes: int = Field(30, ge=1, le=1000, description="logged episodes that a cell learns from")
    steps: int = Field(50, ge=10, le=1000, description="slots of an episode")
    val_episodes: int = Field(4, ge=1, le=1000, description="episodes that a cell plays for validation")
    test_episodes: int = Field(6, ge=1, le=1000, description="episodes that a cell plays for tests")
    held_out: int = Field(4, ge=0, le=1000, description="cells that take no part, for the figure 'new'")
    spread: float = Field(
        0.2, ge=0, le=1, description="how unlike cells are: users' preferences and radio, the speed of the server"
    )
    target: float = Field(0.6, ge=-1.2, le=1, description="mean reward of a slot that the policy is asked for")


@dataclass(frozen=True, eq=False)
class Home:
    """A cell, what was logged in it, and the best piece of that."""

    cell: Cell
    logs: tuple[Log, ...]
    piece: Log


def build(config: RunConfig) -> FederatedTask:
    """Give each cell its logged episodes to learn from, and others to play.

    Raises:
        ConfigError: Options are not allowed.
    """
    options = validate(AllocationConfig, config.task_options, "task option")
    if config.shots != RunConfig.model_fields["shots"].default:
        raise ConfigError(
            "--shots does not go with task 'allocation', whose episodes have no classes: use --set task.episodes=N"
        )
    homes, notes = load_homes(config, options)
    count = len(homes) - options.held_out
    clients = [_client(number, home, config.partition_seed, options) for number, home in enumerate(homes[:count])]
    rest = [
        item
        for number, home in enumerate(homes[count:], count)
        for item in _played(number, home, "test", options.test_episodes, config.partition_seed, options.steps)
    ]
    form = EpisodeForm(steps=options.steps, target=options.target)
    return FederatedTask(
        name=config.task,
        base_classes=ALLOCATION_CLASSES,
        new_classes=(),
        clients=tuple(clients),
        base_test=_split([item for data in clients for item in data.test.items]),
        new_test=_split(rest),
        templates=form.prompts,
        notes=notes,
        form=form,
        partition=config.partition,
    )


def load_homes(config: RunConfig, options: AllocationConfig) -> tuple[list[Home], tuple[str, ...]]:
    """Return the cells of ``config``'s data, those that take part first, and notes on their logs.

    Raises:
        ConfigError: The data are of another kind, or too few cells take part.
        DataError: Files are missing or do not fit.
    """
    kind, _, folder = config.data.partition(":")
    if kind != CELLS:
        raise unknown_name("source of episodes", config.data, [CELLS, f"{CELLS}:FOLDER"])
    if config.data.endswith(":"):
        raise ConfigError(
            f"data source '{config.data}' lacks its path: write {CELLS}:FOLDER, or {CELLS} for made-up ones"
        )
    made_up = 0
    if folder:
        written = read_cells(folder)
        count = len(written) - options.held_out
        if config.clients is not None and config.clients != count:
            raise ConfigError(
                f"--clients is {config.clients}, and {count} cells take part: leave it out, or choose who does not "
                f"(--set task.held_out={max(0, len(written) - config.clients)})"
            )
        cells = [cell for cell, _ in written]
        logs = [log for _, log in written]
    else:
        count = CLIENTS if config.clients is None else config.clients
        cells = region(count + options.held_out, options.spread, config.partition_seed)
        logs = [None] * len(cells)
    if count < 2:
        raise ConfigError(
            f"{max(0, count)} cells take part, and task 'allocation' needs two at least: "
            + ("use --clients 2 or more" if not folder else "add cells, or hold out fewer (--set task.held_out)")
        )
    homes = []
    for number, (cell, log) in enumerate(zip(cells, logs, strict=True)):
        seeds = episode_seeds(config.partition_seed, "train", number, options.episodes)
        made_up += log is None
        episodes = logged(cell, seeds, options.steps) if log is None else log
        homes.append(Home(cell, tuple(episodes), best_piece(episodes)))
    note = f"{made_up} cells have no log: an expert, one with errors or chance acts in them"
    return homes, (note,) if folder and made_up else ()


def best_piece(logs: Sequence[Log]) -> Log:
    """Return the five slots in a row that earned most, of all that was logged in a cell."""
    parts = [log.best_part(PIECE) for log in logs]
    return max(parts, key=lambda part: float(part.rewards.sum()))


def _client(number: int, home: Home, seed: int, options: AllocationConfig) -> ClientData:
    seeds = episode_seeds(seed, "train", number, len(home.logs))
    train = [
        EpisodeItem(home.cell, one, len(log.rewards), home.piece, log)
        for one, log in zip(seeds, home.logs, strict=True)
    ]
    val = _played(number, home, "val", options.val_episodes, seed, options.steps)
    test = _played(number, home, "test", options.test_episodes, seed, options.steps)
    classes = tuple(range(len(ALLOCATION_CLASSES)))
    return ClientData(number, home.cell.name, classes, _split(train), _split(val), _split(test))


def _played(number: int, home: Home, use: str, count: int, seed: int, steps: int) -> list[EpisodeItem]:
    """Return episodes of a cell that are to be played."""
    return [EpisodeItem(home.cell, one, steps, home.piece) for one in episode_seeds(seed, use, number, count)]


def _split(items: Sequence[Item]) -> Split:
    return Split(tuple(items), torch.full((len(items),), BETTER, dtype=torch.int64))


@TASKS.register("allocation")
class AllocationTask(Task):
    """Allot resolutions and bandwidth to users of virtual reality, each cell its own; the last cells are new ones."""

    Config = AllocationConfig
    partitions: ClassVar[tuple[str, ...]] = ("domain",)
    data: ClassVar[str] = CELLS
    method: ClassVar[str] = "promptdt"
    rounds: ClassVar[int] = 10
    backbone: ClassVar[str] = "dt"
    measures: ClassVar[tuple[str, ...]] = ("qoe", "normalised", "late", "qoe_sd")
    selection: ClassVar[str] = "qoe"
    baselines: ClassVar[tuple[str, ...]] = (
        "random_allocation",
        "preferred_allocation",
        "lowest_allocation",
        "expert_allocation",
        "zero_shot",
        "trajectory_prompt",
        "local_only",
    )
    build = staticmethod(build)
