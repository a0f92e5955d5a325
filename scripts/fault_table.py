"""Make faults on purpose, thousands of them, and print how many were tried and what came of each.

    python scripts/fault_table.py                     # all suites; about half an hour on two cores
    python scripts/fault_table.py --share 0.05        # a twentieth of each
    python scripts/fault_table.py --only kills,flips
    python scripts/fault_table.py --write             # also puts the table into docs/reliability.md

Suites: write-faults (every file operation of every command fails once), kills (kill -9 before a file operation),
flips (one bit of a run's files), mutants (damaged and forged files for every reader), messages (forged messages between
server and sites), attacks (malicious clients under the robust aggregators). All are drawn from --seed. The exit code is
1 if anything was lost, a result changed silently, a traceback was shown, or something hung.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from attack_table import ROBUST, ROUNDS, Row, run_attacks
from faults.finished_flips import run_finished_flips
from faults.flips import run_flips
from faults.kills import run_kills
from faults.messages import run_message_mutants
from faults.mutants import run_mutants
from faults.outcomes import BAD, Outcome, table, tally
from faults.write_faults import run_write_faults

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- scripts/fault_table.py -->", "<!-- end -->"
COUNTS = {"kills": 60, "flips": 300, "finished-flips": 60, "mutants": 4000, "messages": 800}
"""Faults of each suite, before --share."""
Suite = Callable[[int, float, Path], Iterable[Outcome]]


def attacks(seed: int, share: float, folder: Path) -> list[Outcome]:
    """Malicious clients under every robust aggregator; with a small share, fewer of them."""
    rules = ROBUST[: max(1, round(share * len(ROBUST)))]
    rows = run_attacks(rules, rounds=ROUNDS)
    return [_of_attack(row) for row in rows if row.attack != "none"]


def _of_attack(row: Row) -> Outcome:
    fault = f"{row.attack} under {row.rule}"
    if row.error:
        return Outcome("attacks under robust rules", fault, "traceback", row.error)
    if not row.withstood:
        return Outcome(
            "attacks under robust rules", fault, "lost", f"{100 * row.clean:.1f} -> {100 * row.accuracy:.1f}"
        )
    return Outcome("attacks under robust rules", fault, "refused" if row.refused else "no difference")


def _count(name: str, share: float) -> int:
    return max(1, round(share * COUNTS[name]))


SUITES: dict[str, Suite] = {
    "write-faults": lambda seed, share, folder: run_write_faults(folder, every=max(1, round(1 / share))),
    "kills": lambda seed, share, folder: run_kills(seed, _count("kills", share), folder),
    "flips": lambda seed, share, folder: run_flips(seed, _count("flips", share), folder),
    "finished-flips": lambda seed, share, folder: run_finished_flips(seed, _count("finished-flips", share), folder),
    "mutants": lambda seed, share, folder: run_mutants(seed, _count("mutants", share), folder),
    "messages": lambda seed, share, folder: run_message_mutants(seed, _count("messages", share)),
    "attacks": attacks,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SUITES), help="suites, with commas [all]")
    parser.add_argument("--share", type=float, default=1.0, help="of the faults of each suite, 0 to 1 [1]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := [name for name in names if name not in SUITES]:
        parser.error(f"unknown suite '{unknown[0]}'; there are {', '.join(SUITES)}")
    if not 0 < given.share <= 1:
        parser.error(f"--share is {given.share}: give a number above 0 and up to 1")

    # What is logged outside of a command is not shown; a command shows its warnings, and they count as said.
    logging.getLogger("promptfed").addHandler(logging.NullHandler())
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMPTFED_CACHE"] = f"{folder}/cache"
        for name in names:
            began = time.monotonic()
            place = Path(folder) / name
            place.mkdir()
            fresh = list(SUITES[name](given.seed, given.share, place))
            outcomes += fresh
            print(f"{name}: {len(fresh)} faults in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            for outcome in fresh:
                if outcome.result in BAD:
                    print(f"  {outcome.result}: {outcome.fault}: {outcome.detail}", file=sys.stderr, flush=True)
    text = table(tally(outcomes))
    print(text)
    if given.write:
        write(text)
    sys.exit(any(outcome.result in BAD for outcome in outcomes))


def write(text: str) -> None:
    """Put ``text`` between the marks of docs/reliability.md."""
    page = PAGE.read_text(encoding="utf-8")
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    PAGE.write_text(between.sub(lambda _: f"{BEGIN}\n{text}\n{END}", page), encoding="utf-8")


if __name__ == "__main__":
    main()
