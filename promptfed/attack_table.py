"""Attacks against server rules: one federation for each pair, with the same data, seed and malicious clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from promptfed.aggregators.base import AGGREGATORS
from promptfed.attack_cells import Cell, SavedCells
from promptfed.attacks.base import ATTACKS, NAME, adversary_of, checked_options, malicious_clients
from promptfed.config import RunConfig, parse_settings
from promptfed.errors import ConfigError, PromptFedError, unknown_name
from promptfed.evaluation import accuracy
from promptfed.experiment import Experiment
from promptfed.printable import printable
from promptfed.progress import Progress
from promptfed.resolve import resolve
from promptfed.types import ClientPrompt

CLEAN = "none"
"""The row without an attack, which comes first."""


def attack_of(text: str) -> dict[str, Any]:
    """Return the options of an attack that is named as ``alie`` or ``alie:z=1.5:knows=group``.

    Raises:
        ConfigError: The attack or an option is unknown, or has a bad value.
    """
    name, *settings = text.split(":")
    return checked_options({NAME: name, **parse_settings(settings)})


def told(rule: str, malicious: Sequence[int], clients: Sequence[int]) -> dict[str, Any]:
    """Return the options by which ``rule`` is told how many to withstand, or whom to trust; only those it has."""
    fields = AGGREGATORS[rule].Config.model_fields
    trusted = next(client for client in clients if client not in malicious)
    known: dict[str, Any] = {"byzantine": len(malicious), "malicious": len(malicious), "root": trusted}
    known["trim"] = min(0.45, len(malicious) / len(clients))
    return {name: value for name, value in known.items() if name in fields}


def attack_table(
    config: RunConfig,
    attacks: Sequence[str],
    rules: Sequence[str],
    malicious: float,
    seeds: int = 1,
    on_cell: Callable[[Cell], None] = lambda cell: None,
    progress: Progress | None = None,
    saved: Path | None = None,
) -> list[Cell]:
    """Return a cell for each rule and attack, that without an attack first.

    Args:
        config: The options of the runs; the engine is the local one.
        attacks: As ``attack_of`` reads them.
        rules: Names of aggregators. Their other options are the defaults.
        malicious: The share of malicious clients. They are the same for all attacks and rules of a seed.
        seeds: Figures are means over so many seeds, from that of ``config`` on, of training and of the partition.
        on_cell: Receives each cell as it is there.
        progress: Receives the progress of features.
        saved: A JSON file that has each cell as soon as it is there. What it has already is not trained again.

    Raises:
        ConfigError: A name or an option is wrong, or ``saved`` has cells of other options.
    """
    options = {text: {**attack_of(text), "malicious": malicious} for text in attacks}
    for text, given in options.items():
        options[text] = checked_options(given)
    for rule in rules:
        if rule not in AGGREGATORS:
            raise unknown_name("aggregator", rule, AGGREGATORS)
    if not options or not rules:
        raise ConfigError("name one attack and one aggregator at least, with commas between several")
    bench = _Bench(config, options, SavedCells(saved, config, malicious), malicious, progress or Progress())
    cells = []
    for rule in rules:
        runs = [bench.column(rule, seed) for seed in range(seeds)]
        for place, attack in enumerate((CLEAN, *options)):
            cell = _mean([run[place] for run in runs], attack)
            cells.append(cell)
            on_cell(cell)
    return cells


class _Bench:
    """Runs the federations of a table; those of one seed share data and features."""

    def __init__(
        self,
        config: RunConfig,
        attacks: Mapping[str, dict[str, Any]],
        saved: SavedCells,
        malicious: float,
        progress: Progress,
    ) -> None:
        self.config, self.attacks, self.saved = config, attacks, saved
        self.malicious, self.progress = malicious, progress
        self._first: dict[int, Experiment] = {}

    def column(self, rule: str, seed: int) -> list[Cell]:
        """Return the cells of one rule and seed, in the order of the attacks."""
        names = (CLEAN, *self.attacks)
        cells = {name: self.saved.get(self.config.seed + seed, rule, name) for name in names}
        if any(cell is None for cell in cells.values()):
            self._fill(cells, rule, seed)
        return [cell for cell in cells.values() if cell is not None]

    def _fill(self, cells: dict[str, Cell | None], rule: str, seed: int) -> None:
        """Train what is missing of ``cells``, and save each cell.

        The run without an attack is made even if its cell is there: a backdoor is measured against its prompt.
        """
        first = self._experiment(seed)

        def keep(cell: Cell) -> None:
            cells[cell.attack] = cell
            self.saved.add(first.config.seed, cell)

        clients = [summary.client for summary in first.task.summaries()]
        bad = sorted(malicious_clients(clients, self.malicious, first.config.seed))
        update = {"aggregator": rule, "aggregator_options": told(rule, bad, clients), "engine": "local"}
        try:
            config = resolve(first.config.model_copy(update=update))
            clean, prompt = self._run(config, first, CLEAN, rule)
        except PromptFedError as error:
            for attack in cells:
                keep(Cell(attack, rule, None, problem=str(error)))
            return
        keep(clean)
        for attack, options in self.attacks.items():
            if cells[attack] is not None:
                continue
            try:
                changed = resolve(config.model_copy(update={"attack_options": options}))
                cell, trained = self._run(changed, first, attack, rule)
                if (adversary := adversary_of(options, first.method(), first.task)) is not None:
                    figures = adversary.measured(trained, prompt)
                    cell = replace(cell, asr=figures.get("asr"), asr_clean=figures.get("asr_start"))
            except PromptFedError as error:
                cell = Cell(attack, rule, None, problem=str(error))
            keep(cell)

    def _experiment(self, seed: int) -> Experiment:
        if seed not in self._first:
            update = {"seed": self.config.seed + seed, "partition_seed": self.config.partition_seed + seed}
            self._first[seed] = Experiment.build(resolve(self.config.model_copy(update=update)))
            self._first[seed].fill_features(self.progress.features)
        return self._first[seed]

    def _run(self, config: RunConfig, like: Experiment, attack: str, rule: str) -> tuple[Cell, ClientPrompt]:
        """Return the cell and the shared prompt of one federation."""
        experiment = Experiment.build(config, like=like)
        federation = experiment.federation()
        state, refused = federation.start(), 0
        for _ in range(federation.method.rounds):
            state, replies = federation.run_round(state)
            refused += sum(reply.failure.startswith("refused") for reply in replies)
        prompt = federation.prompt(state, None)
        task = experiment.task
        return Cell(
            attack, rule, accuracy(federation.method, prompt, task.base_classes, task.base_test), refused
        ), prompt


def _mean(cells: Sequence[Cell], attack: str) -> Cell:
    """Return the mean of ``cells``, one a seed; none if one has no figure."""
    problem = next((cell.problem for cell in cells if cell.problem), "")
    if problem:
        return Cell(attack, cells[0].rule, None, problem=problem)

    def mean(values: Sequence[float | None]) -> float | None:
        present = [value for value in values if value is not None]
        return fmean(present) if present else None

    return Cell(
        attack,
        cells[0].rule,
        mean([cell.base for cell in cells]),
        sum(cell.refused for cell in cells),
        mean([cell.asr for cell in cells]),
        mean([cell.asr_clean for cell in cells]),
    )


def cell_text(cell: Cell) -> str:
    """Return a cell in per cent: ``46.7``, of a backdoor ``46.7, ASR 73.5 (0.2)``; the bracket is without it."""
    if cell.base is None:
        return "-"
    figure = f"{100 * cell.base:.1f}"
    if cell.asr is None or cell.asr_clean is None:
        return figure
    return f"{figure}, ASR {100 * cell.asr:.1f} ({100 * cell.asr_clean:.1f})"


def markdown(cells: Sequence[Cell]) -> str:
    """Return ``cells`` as a Markdown table, an attack a line and a rule a column."""
    rules = list(dict.fromkeys(cell.rule for cell in cells))
    lines = ["| attack | " + " | ".join(f"`{rule}`" for rule in rules) + " |", "|---|" + "---:|" * len(rules)]
    for attack in dict.fromkeys(cell.attack for cell in cells):
        row = {cell.rule: cell_text(cell) for cell in cells if cell.attack == attack}
        lines.append(f"| {printable(attack)} | " + " | ".join(row[rule] for rule in rules) + " |")
    return "\n".join(lines) + "\n"


def known_attacks() -> dict[str, dict[str, Any]]:
    """Return name -> what it does and knows, of all attacks that malicious clients of a run can make."""
    abouts = {name: (ATTACKS[name].__doc__ or "").partition("\n")[0].replace("``", "") for name in ATTACKS}
    return {name: {"about": about, "knows": ATTACKS[name].knows} for name, about in abouts.items()}
