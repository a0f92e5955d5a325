"""Attack every way of merging and print what is left of its accuracy, as the table of docs/aggregators.md.

    python scripts/attack_table.py                      # all rules, all attacks; some twenty minutes on two cores
    python scripts/attack_table.py --rules mean,median --attacks 1e38 --rounds 3
    python scripts/attack_table.py --write              # also puts the table into docs/aggregators.md

The task is the default one (icons, `tiny`, PromptFL, partition by classes) with 10 clients, of which 2 send in every
round what promptfed/attacks makes of their honest update. The figure is the base accuracy in per cent, all
classes together, after the last round. Rules that are told how many to withstand are told 2.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

from promptfed.aggregators.base import AGGREGATORS, build_aggregator
from promptfed.attacks.base import build_attack, poisoned
from promptfed.config import build_config
from promptfed.engines.local import LocalEngine
from promptfed.evaluation import accuracy
from promptfed.experiment import Experiment
from promptfed.federation import Federation
from promptfed.resolve import resolve
from promptfed.stderr_log import quieted
from promptfed.threads import torch_threads
from promptfed.types import Incident

CLIENTS, MALICIOUS, ROUNDS = 10, (3, 7), 8
ATTACKS = {
    "sign flip x10": build_attack("signflip", {"strength": 10}),
    "scale 1e3": build_attack("scale", {"strength": 1e3}),
    "noise x10": build_attack("gaussian", {"strength": 10}),
    "1e6": build_attack("constant", {"value": 1e6}),
    "1e38": build_attack("constant", {"value": 1e38}),
    "count 10^9": build_attack("weightlie", {"samples": 10**9}),
}
"""By the names that the table gives them."""
RULE_OPTIONS: dict[str, dict[str, object]] = {
    "krum": {"byzantine": 2},
    "multi_krum": {"byzantine": 2},
    "trimmed_mean": {"trim": 0.2},
    "dnc": {"malicious": 2},
    "fltrust": {"root": 0},
}
ROBUST = (
    *("median", "trimmed_mean", "krum", "multi_krum", "geometric_median", "norm_clip"),
    *("centered_clip", "dnc", "bucketing", "fltrust"),
)
"""Rules that are meant to withstand malicious clients."""
POINTS = 2.0
"""So much less accuracy than without the attack is withstood."""
CLEAN, ABSENT = "none", "absent"
"""Without an attack; and without the clients that would attack, whose data nobody else has."""
PAGE = Path(__file__).resolve().parents[1] / "docs" / "aggregators.md"
BEGIN, END = "<!-- scripts/attack_table.py -->", "<!-- end -->"


@dataclass(frozen=True)
class Row:
    """One rule under one attack: base accuracies in 0..1, with the attack and without.

    ``refused``: updates that the server did not merge; ``finite``: whether the shared prompt and the server's memory
    were after every round; ``error``: what ended the run, "" if nothing did.
    """

    rule: str
    attack: str
    accuracy: float
    clean: float
    refused: int
    finite: bool
    error: str = ""

    @property
    def withstood(self) -> bool:
        """Whether the accuracy is within ``POINTS`` of that without the attack."""
        return not self.error and self.finite and 100 * (self.clean - self.accuracy) <= POINTS


def run_attacks(
    rules: Iterable[str] | None = None,
    attacks: Iterable[str] | None = None,
    rounds: int = ROUNDS,
    seeds: int = 1,
) -> list[Row]:
    """One row for each rule and attack, by default all of both; ``CLEAN`` is an attack too, and comes first.

    An accuracy is the mean over ``seeds`` seeds, each of which trains and deals out the data anew.
    """
    rows = []
    with torch_threads(1), quieted("promptfed", logging.ERROR):  # refusals are told by warnings
        for rule in rules or tuple(AGGREGATORS):
            clean = _mean([_attacked(rule, CLEAN, rounds, seed) for seed in range(seeds)], None)
            rows.append(clean)
            for attack in attacks or tuple(ATTACKS):
                each = [_attacked(rule, attack, rounds, seed) for seed in range(seeds)]
                rows.append(_mean(each, clean.accuracy))
    return rows


def _mean(rows: Sequence[Row], clean: float | None) -> Row:
    """The mean of ``rows``, one a seed; ``clean`` is the mean without the attack, None if these are without."""
    accuracy = fmean(row.accuracy for row in rows)
    error = next((row.error for row in rows if row.error), "")
    return replace(
        rows[0],
        accuracy=accuracy,
        clean=accuracy if clean is None else clean,
        refused=sum(row.refused for row in rows),
        finite=all(row.finite for row in rows),
        error=error,
    )


@cache
def _experiment(rounds: int, seed: int) -> Experiment:
    options = {"clients": CLIENTS, "rounds": rounds, "seed": seed, "partition_seed": seed}
    experiment = Experiment.build(resolve(build_config(options)))
    experiment.fill_features()
    return experiment


def _attacked(rule: str, attack: str, rounds: int, seed: int) -> Row:
    experiment = _experiment(rounds, seed)
    method = experiment.method()
    worker = experiment.worker(method, experiment.config.method)
    if attack in ATTACKS:
        worker = poisoned(worker, ATTACKS[attack], MALICIOUS)
    federation = Federation(
        method,
        build_aggregator(rule, RULE_OPTIONS.get(rule, {})),
        LocalEngine(worker, client_batch=CLIENTS),
        [client for client in range(CLIENTS) if attack != ABSENT or client not in MALICIOUS],
        quorum=experiment.config.quorum,
        samples=experiment.samples(method),
    )
    state, refused, finite, error = federation.start(), 0, True, ""
    incidents: list[Incident] = []
    for _ in range(rounds):
        try:
            state, replies = federation.run_round(state, on_incident=incidents.append)
        except Exception as problem:  # an attack that ends the run is what the table is to show
            error = f"{type(problem).__name__}: {problem}"
            break
        refused += sum(bool(reply.failure) for reply in replies)
        finite = finite and state.shared.is_finite() and state.server.is_finite()
    figure = accuracy(method, federation.prompt(state, None), experiment.task.base_classes, experiment.task.base_test)
    return Row(rule, attack, figure, figure, refused, finite, error)


def table(rows: Sequence[Row]) -> str:
    """``rows`` as a Markdown table, a rule a line; bold: within two points of the figure without the attack."""
    attacks = list(dict.fromkeys(row.attack for row in rows))
    lines = ["| rule | " + " | ".join(attacks) + " |", "|---|" + "---|" * len(attacks)]
    for rule in dict.fromkeys(row.rule for row in rows):
        cells = [_cell(row) for row in rows if row.rule == rule]
        lines.append(f"| `{rule}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    if row.error:
        return "ended"
    figure = f"{100 * row.accuracy:.1f}" if row.finite else "not finite"
    return f"**{figure}**" if row.withstood and row.attack != CLEAN else figure


def write(text: str) -> None:
    """Put ``text`` between the marks of docs/aggregators.md."""
    page = PAGE.read_text()
    found = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    PAGE.write_text(found.sub(lambda _: f"{BEGIN}\n{text}\n{END}", page))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", default=",".join(AGGREGATORS), help="with commas [all]")
    parser.add_argument("--attacks", default=";".join(ATTACKS), help="with semicolons [all]")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seeds", type=int, default=1, help="figures are means over so many [1]")
    parser.add_argument("--processes", type=int, default=2, help="rules side by side [2]")
    parser.add_argument("--write", action="store_true", help="put the table into docs/aggregators.md")
    given = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(run_attacks, [rule], given.attacks.split(";"), given.rounds, given.seeds)
            for rule in given.rules.split(",")
        ]
        for job in jobs:
            rows += job.result()
            print(table(job.result()), flush=True)
    if given.write:
        write(table(rows))
    fallen = [row for row in rows if row.rule in ROBUST and not row.withstood]
    for row in fallen:
        print(f"{row.rule} fell under {row.attack}: {100 * row.clean:.1f} -> {100 * row.accuracy:.1f} {row.error}")
    broken = [row for row in rows if row.error or not row.finite]
    print(f"{len(rows)} federations, {len(broken)} ended or not finite, {len(fallen)} robust rules that fell")
    sys.exit(bool(broken or fallen))


if __name__ == "__main__":
    main()
