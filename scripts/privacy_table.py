"""Accuracy against epsilon: PromptFL under client-level differential privacy, beside zero-shot and local-only.

    python scripts/privacy_table.py --clients 10,100 --epsilons inf,8,2 --contexts 4,16 --rounds 10

Every row is one run on the bundled icons (partition: Dirichlet 0.5, two training images of a class and client).
"inf" is the same run, clipped, without noise. The noise differs from run to run, as its key is secret.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import promptfed as pf

BASE = {"partition": "dirichlet", "shots": 8, "progress": False}


def figures(run: pf.Run, stage: str) -> str:
    """Return local and base accuracy of a stage in percent."""
    found = run.metrics[stage]
    return f"{100 * (found['local'] or float('nan')):.1f} | {100 * found['base']:.1f}"


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="10,100")
    parser.add_argument("--epsilons", default="inf,8,2")
    parser.add_argument("--contexts", default="4,16")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--clip", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--client-batch", type=int, default=16)
    options = parser.parse_args()
    print("| clients | prompt | epsilon | noise / clip | local | base |\n|---:|---|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for clients in map(int, options.clients.split(",")):
            common = {**BASE, "clients": clients, "rounds": options.rounds, "seed": options.seed,
                      "client_batch": options.client_batch}  # fmt: skip
            for n_ctx in map(int, options.contexts.split(",")):
                for number, epsilon in enumerate(options.epsilons.split(",")):
                    is_first = number == 0 and n_ctx == int(options.contexts.split(",")[0])
                    terms = {"dp": "client", "clip": options.clip, "delta": min(1e-3, 1 / (100 * clients))}
                    terms |= {"noise": 0} if epsilon == "inf" else {"epsilon": float(epsilon)}
                    path = Path(folder) / f"{clients}-{n_ctx}-{epsilon}"
                    run = pf.train(
                        **common,
                        folder=path,
                        method_options={"n_ctx": n_ctx},
                        privacy_options=terms,
                        baselines=("zero_shot", "local_only") if is_first else (),
                    )
                    if is_first:
                        for stage in ("zero_shot", "local_only"):
                            print(f"| {clients} | {stage} | | | {figures(run, stage)} |", flush=True)
                    noise = json.loads((path / "privacy.json").read_text())["noise_multiplier"]
                    print(
                        f"| {clients} | {n_ctx} x 512 | {epsilon} | {noise:.2f} | {figures(run, 'method')} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
