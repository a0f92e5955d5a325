"""Membership inference against epsilon: what an update and a prompt give away when sites train with noise.

    python scripts/membership_table.py --noises none,0,0.8,2,8 --seeds 3

Runs on the bundled icons: 10 clients with two images of a class, PromptFL by DP-SGD (unit: one example). "none" is
plain training. The figure is the area under the curve (AUC): 0.5 is guessing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import promptfed as pf
from promptfed.attack_audit import audit
from promptfed.export.finished import FinishedRun
from promptfed.runs.directory import RunDirectory


def scores(folder: Path, terms: dict[str, Any], rounds: int, seed: int) -> tuple[float | None, dict[str, float]]:
    """Train, audit; return epsilon (the largest of the clients) and the AUC of each score, base accuracy among them."""
    run = pf.train(
        folder=folder,
        clients=10,
        shots=2,
        rounds=rounds,
        seed=seed,
        partition_seed=seed,
        baselines=(),
        progress=False,
        privacy_options=terms,
    )
    found = audit(FinishedRun.load(RunDirectory.open(folder)), "membership")
    aucs = {name: score["trained"]["auc"] for name, score in found["scores"].items()}
    epsilon = json.loads((folder / "privacy.json").read_text()).get("epsilon")
    return epsilon, {**aucs, "base accuracy": run.metrics["method"]["base"]}


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noises", default="none,0,0.8,2,8", metavar="Z,Z")
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        for place, noise in enumerate(options.noises.split(",")):
            terms = {} if noise == "none" else {"dp": "example", "clip": options.clip, "noise": float(noise)}
            seeds = [
                scores(Path(home) / f"{noise}-{seed}", terms, options.rounds, seed) for seed in range(options.seeds)
            ]
            names = list(seeds[0][1])
            if not place:
                print(
                    f"| noise / clip | epsilon | {' | '.join(names)} |\n|---:|---:|{'---:|' * len(names)}", flush=True
                )
            spent = [epsilon for epsilon, _ in seeds if epsilon is not None]
            cells = [f"{statistics.mean(found[name] for _, found in seeds):.2f}" for name in names]
            print(f"| {noise} | {f'{max(spent):.1f}' if spent else 'none'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
