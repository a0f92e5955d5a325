"""The same run on the local engine, on Ray and over a Flower deployment on this machine: are the prompts the same?

    python scripts/engines_agree.py                 the default task, 8 clients, 3 rounds
    python scripts/engines_agree.py --rounds 20     all of it
    python scripts/engines_agree.py --engines local,ray

Prints for each engine the SHA-256 of its prompt, the seconds and the bytes up and down that its event log counts, and
where hashes differ the largest difference between two prompts. Exit code 1 if that is above 1e-6.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from promptfed.prompt_state import PromptState
from promptfed.runs.checkpoint import load_checkpoint

ENGINES = ("local", "ray", "flower")
LIMIT = 1e-6


@dataclass(frozen=True)
class Done:
    """One engine's run."""

    engine: str
    sha256: str
    prompt: PromptState
    base: float
    bytes_up: int
    bytes_down: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--method", default="promptfl")
    parser.add_argument("--engines", default=",".join(ENGINES), help="which of local, ray, flower")
    parser.add_argument(
        "--threads", type=int, default=1, help="of each process; the same for all, as bits depend on it"
    )
    parser.add_argument("--keep", type=Path, help="folder for runs and logs [a temporary one]")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        options = ["--clients", str(asked.clients), "--rounds", str(asked.rounds), "--method", asked.method]
        done = [found for engine in asked.engines.split(",") if (found := run(engine, folder, options)) is not None]
    sys.exit(compare(done))


def run(engine: str, folder: Path, options: list[str]) -> Done | None:
    """The run on ``engine``; None, with a line, where it is not installed."""
    module = {"ray": "ray", "flower": "flwr"}.get(engine)
    if module is not None and importlib.util.find_spec(module) is None:
        print(f"{engine}: skipped, {module} is not installed (pip install 'promptfed[{engine}]')")
        return None
    place, began = folder / engine, time.monotonic()
    if engine == "flower":
        over_flower(folder, place, options)
    else:
        chosen = [] if engine == "local" else ["--engine", engine]
        promptfed("train", *options, *QUIET, *chosen, "--run", str(place), "--quiet")
    seconds = time.monotonic() - began
    metrics = json.loads((place / "metrics.json").read_text())
    saved = load_checkpoint(place / "checkpoints")
    assert saved is not None
    cost = metrics["cost"]
    found = Done(
        engine, metrics["prompt_sha256"], saved[0].shared, metrics["method"]["base"], cost["bytes_up"],
        cost["bytes_down"], seconds,
    )  # fmt: skip
    print(
        f"{engine:7} {found.sha256}  base {100 * found.base:.2f} %, {found.bytes_up:,} bytes up, "
        f"{found.bytes_down:,} down, {found.seconds:.0f} s",
        flush=True,
    )
    return found


QUIET = ("--baselines", "none", "--set", "validate_every=0")
"""The method alone: what is compared is its prompt."""


def over_flower(folder: Path, place: Path, options: list[str]) -> None:
    """A SuperLink and one node a client, all on this machine."""
    from promptfed.deployment.local_deployment import loopback

    app, clients = folder / "app", int(options[1])
    promptfed("flower", "init", str(app), *options, *QUIET, "--run", str(place), "--min-sites", str(clients))
    with loopback(folder / "flower-log") as deployment:
        for k in range(clients):
            deployment.start_node(f"node{k}", f'partition-id={k} state-dir="{folder / f"site{k}"}"')
        deployment.begin_run(app, "poll-seconds=0.2")
        deployment.finish_run(4 * 3600)


def promptfed(*words: str) -> None:
    subprocess.run([sys.executable, "-P", "-m", "promptfed.cli", *words], check=True, stdout=subprocess.DEVNULL)


def compare(done: list[Done]) -> int:
    """Says whether all prompts are the same; the exit code."""
    if len({found.sha256 for found in done}) == 1:
        print(f"{len(done)} engines, one prompt, bit for bit")
        return 0
    first = done[0]
    largest = max(
        (first.prompt[name].float() - found.prompt[name].float()).abs().max().item()
        for found in done[1:]
        for name in first.prompt
        if torch.is_tensor(found.prompt[name])
    )
    print(f"the prompts differ by {largest:.3g} at most")
    return 0 if largest <= LIMIT else 1


if __name__ == "__main__":
    main()
