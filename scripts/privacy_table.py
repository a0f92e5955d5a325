"""Accuracy against epsilon: PromptFL under client-level differential privacy, beside zero-shot and local-only.

    python scripts/privacy_table.py --clients 10,100,1000 --seeds 3 --out privacy_table --plot privacy_table.svg

Runs on the bundled icons: each client draws its classes and eight images of each from one pool, so that a client holds
the same kind of data for any number of clients. Up to 100 clients all take part in each round, above that a tenth.
"inf" is the same run, clipped, without noise. The noise differs from run to run, as its key is secret. Results are kept
in the folder: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import promptfed as pf


@dataclass(frozen=True)
class Row:
    """One run: accuracies in percent; ``epsilon`` is inf without noise, and empty for a baseline."""

    clients: int
    stage: str
    epsilon: str
    seed: int
    noise: float
    local: float
    base: float


def figures(run: pf.Run, stage: str) -> dict[str, float]:
    """Return local and base accuracy of a stage in percent."""
    found = run.metrics[stage]
    return {"local": 100 * (found["local"] or math.nan), "base": 100 * found["base"]}


def train(options: argparse.Namespace, clients: int, epsilon: str, seed: int, folder: Path) -> list[Row]:
    """Train once; return the row of the run, and of the baselines that ran along."""
    with_baselines = epsilon == options.epsilons.split(",")[0] and clients == min(counts(options))
    terms = {"dp": "client", "clip": options.clip, "delta": min(1e-3, 1 / (100 * clients))}
    terms |= {"noise": 0} if epsilon == "inf" else {"epsilon": float(epsilon)}
    run = pf.train(
        folder=folder,
        clients=clients,
        shots=8,
        rounds=options.rounds,
        participation=1.0 if clients <= 100 else 0.1,
        seed=seed,
        partition_seed=seed,
        client_batch=16,
        progress=False,
        task_options={"overlap": True},
        method_options={"n_ctx": options.n_ctx},
        privacy_options=terms,
        baselines=("zero_shot", "local_only") if with_baselines else (),
    )
    noise = json.loads((folder / "privacy.json").read_text())["noise_multiplier"]
    stages = ("zero_shot", "local_only") if with_baselines else ()
    baselines = [Row(clients, stage, "", seed, 0, **figures(run, stage)) for stage in stages]
    return [*baselines, Row(clients, "PromptFL", epsilon, seed, noise, **figures(run, "method"))]


def counts(options: argparse.Namespace) -> list[int]:
    """Return the numbers of clients that were asked for."""
    return [int(n) for n in options.clients.split(",")]


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation over seeds."""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def groups(rows: Sequence[Row]) -> dict[tuple[int, str, str], list[Row]]:
    """Return the rows of the seeds that belong together."""
    found: dict[tuple[int, str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.clients, row.stage, row.epsilon), []).append(row)
    return found


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, means over seeds."""
    lines = ["| clients | stage | epsilon | noise / clip | local | base |", "|---:|---|---:|---:|---:|---:|"]
    for (clients, stage, epsilon), members in groups(rows).items():
        is_baseline = not epsilon
        local, base = spread([m.local for m in members]), spread([m.base for m in members])
        noise = "" if is_baseline else f"{members[0].noise:.2f}"
        many = "any" if is_baseline else f"{clients:,}"
        lines.append(f"| {many} | {stage} | {epsilon} | {noise} | {local} | {base} |")
    return "\n".join(lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw base accuracy against epsilon, one line for each number of clients, beside the baselines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams |= {"svg.hashsalt": "promptfed", "svg.fonttype": "none", "font.size": 11, "legend.fontsize": 11}
    found = groups(rows)
    figure, axes = plt.subplots(figsize=(4.8, 4.6))  # letters of 11 pixels on a phone
    places = sorted({e for _, stage, e in found if e}, key=float)
    for clients in sorted({n for n, stage, _ in found if stage == "PromptFL"}):
        members = [found[clients, "PromptFL", e] for e in places]
        means = [statistics.mean(m.base for m in group) for group in members]
        errors = [statistics.stdev([m.base for m in group]) if len(group) > 1 else 0 for group in members]
        axes.errorbar(range(len(places)), means, yerr=errors, marker="o", capsize=3, label=f"{clients:,} clients")
    for stage, style in (("zero_shot", ":"), ("local_only", "--")):
        for key, group in found.items():
            if key[1] == stage:
                height = statistics.mean(m.base for m in group)
                axes.axhline(height, color="0.4", linestyle=style, label=stage.replace("_", "-"))
    axes.set_xticks(range(len(places)), ["none" if e == "inf" else e for e in places])
    axes.set_xlabel("epsilon (none: clipped, without noise)")
    axes.set_ylabel("accuracy on all training classes, %")
    axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=2, frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="10,100,1000", metavar="N,N")
    parser.add_argument("--epsilons", default="inf,8,4,2,1", metavar="E,E")
    parser.add_argument("--n-ctx", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--clip", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("privacy_table"))
    parser.add_argument("--plot", type=Path, help="draw base accuracy against epsilon into this file")
    options = parser.parse_args()
    rows: list[Row] = []
    for clients in counts(options):
        for epsilon in options.epsilons.split(","):
            for seed in range(options.seeds):
                folder = options.out / f"{clients}-{options.n_ctx}-{epsilon}-{seed}"
                done = folder.parent / f"{folder.name}.json"
                if not done.exists():
                    found = train(options, clients, epsilon, seed, folder)
                    done.write_text(json.dumps([asdict(row) for row in found]))
                rows += [Row(**row) for row in json.loads(done.read_text())]
                print(f"{clients} clients, epsilon {epsilon}, seed {seed}: {rows[-1]}", flush=True)
    print(table(rows))
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
