"""Measure prompts of cells over seeds: federated, each cell alone, and a real piece of the cell's trajectory.

    python scripts/measure_cells.py --episodes 30 --seeds 3 --ranks 16 32 0
    python scripts/measure_cells.py --episodes 5 --seeds 5 --ranks 0 16

Cells and episodes are those of task allocation with this partition seed. What is printed is the normalised score at
home, in percent: 0 is chance, 100 the searching expert. Differences are paired: of one cell, by the same episodes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import torch

from promptfed.aggregators.mean import Mean
from promptfed.agreement import Agreement
from promptfed.build_method import build_method
from promptfed.config import build_config, validate
from promptfed.errors import ConfigError
from promptfed.examples.episodes import EpisodeForm
from promptfed.measures.base import build_measure
from promptfed.method import METHODS
from promptfed.policies.loading import load_policy
from promptfed.prompts.policy_method import PolicyMethod
from promptfed.setup import Setup
from promptfed.tasks import TASKS
from promptfed.types import NO_PROMPT, Broadcast, ClientData, FederatedTask


def train(method: PolicyMethod, clients: Sequence[ClientData]) -> list[torch.Tensor]:
    """Return the prompts with which ``clients`` play after all rounds together."""
    mean, shared = Mean(Mean.Config()), method.init_shared()
    offsets = [method.init_personal(data.client) for data in clients]
    for round in range(1, method.setup.rounds + 1):
        broadcast = Broadcast(round, shared)
        results = [method.train(broadcast, data, offset) for data, offset in zip(clients, offsets, strict=True)]
        offsets = [offset for _, offset in results]
        shared, _ = mean.apply(shared, [update for update, _ in results], NO_PROMPT)
    return [method.prompt(shared, offset) for offset in offsets]


def scores(setup: Setup, task: FederatedTask, prompts: Sequence[torch.Tensor]) -> list[float]:
    """Return the normalised score of each cell at home behind its prompt, in percent."""
    measure, policy = build_measure("normalised"), setup.policy
    items = [item for data in task.clients for item in data.test.items]
    count = len(task.clients[0].test.items)
    rewards, late = policy.play(items, torch.cat([prompt.expand(count, -1, -1) for prompt in prompts]))
    table = policy.scores(items, rewards, late)
    return [measure.figure(table[k : k + count], torch.ones(count).long()) for k in range(0, len(items), count)]


def measure_seed(seed: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the scores of each cell, by kind of prompt."""
    task_options = {"episodes": options.episodes, "test_episodes": options.test_episodes, "held_out": 0}
    config = {"task": "allocation", "data": "cells", "clients": options.cells, "partition_seed": seed}
    task = TASKS["allocation"].build(build_config({**config, "task_options": task_options}))
    assert isinstance(task.form, EpisodeForm)
    agreement = Agreement(classes=task.base_classes, templates=task.templates, rounds=options.rounds, seed=seed)
    setup = Setup(load_policy("dt", task.form), agreement, "normalised")
    pieces = setup.policy.tokens([data.test.items[0].piece for data in task.clients])  # type: ignore[attr-defined]
    table = {"trajectory": scores(setup, task, list(pieces[:, None]))}

    def method_with(**changes: Any) -> PolicyMethod:
        method = build_method("promptdt", {**options.set, **changes}, setup)
        assert isinstance(method, PolicyMethod)
        return method

    for rank in options.ranks:
        for personal in options.personal:
            method = method_with(rank=rank, personal=personal == "yes")
            name = f"rank {rank}{'' if personal == 'yes' else ', no offset'}"
            table[f"{name}: federated"] = scores(setup, task, train(method, task.clients))
            if options.alone:
                table[f"{name}: alone"] = scores(setup, task, [train(method, [data])[0] for data in task.clients])
    return table


def difference(name: str, ones: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> str:
    """Return a line of the paired differences of cells, of which there is a list a seed."""
    of_seeds = [[one - other for one, other in zip(*pair, strict=True)] for pair in zip(ones, others, strict=True)]
    means = [fmean(some) for some in of_seeds]
    wins = [gap > 0 for some in of_seeds for gap in some]
    spread = f" ± {stdev(means):.1f}" if len(means) > 1 else ""
    return f"{name}: {fmean(means):+.1f}{spread}, better in {sum(wins)} of {len(wins)} cells"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=30, help="logged episodes of a cell")
    parser.add_argument("--test-episodes", type=int, default=6)
    parser.add_argument("--cells", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, nargs="+", default=[16])
    parser.add_argument("--personal", nargs="+", choices=["yes", "no"], default=["yes"], help="offsets of cells' own")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="options of the method")
    parser.add_argument("--alone", action="store_true", help="train each cell by itself, too")
    options = parser.parse_args()
    pairs = [one.partition("=") for one in options.set]
    if wrong := [name for name, sign, _ in pairs if not sign or name in ("rank", "personal")]:
        parser.error(f"--set {wrong[0]}: give NAME=VALUE; rank and personal have options --ranks and --personal")
    options.set = {name: value for name, _, value in pairs}
    try:
        validate(METHODS["promptdt"].Config, options.set, "method option")
    except ConfigError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    tables = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        tables.append(measure_seed(seed, options))
        print(
            json.dumps({"seed": seed, **{name: round(fmean(row), 1) for name, row in tables[-1].items()}}), flush=True
        )
    rows = {name: [table[name] for table in tables] for name in tables[0]}
    for name, row in rows.items():
        means = [fmean(some) for some in row]
        print(f"{name}: {fmean(means):.1f}" + (f" ± {stdev(means):.1f}" if len(means) > 1 else ""))
    for name, row in rows.items():
        if name.endswith("federated"):
            print(difference(f"{name} - trajectory", row, rows["trajectory"]))
            alone = f"{name.partition(':')[0]}: alone"
            if alone in rows:
                print(difference(f"{name} - alone", row, rows[alone]))


if __name__ == "__main__":
    main()
