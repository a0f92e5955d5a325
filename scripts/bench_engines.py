"""Time a round on each engine, and its memory, all processes included; check that the prompts are the same.

    python scripts/bench_engines.py                       # PromptFL, 8 clients and 64, four rounds; some minutes
    python scripts/bench_engines.py --scale 10 1000       # 20 rounds: memory must not grow with the clients
    python scripts/bench_engines.py --engines local ray --clients 8 --rounds 10

Each variant is `promptfed train` in a process of its own, without baselines. Seconds a round are the median of those
after the first, in which models are loaded. Memory is the peak, over the run, of the sum over the process and all that
it started: PSS, which counts shared pages once (Linux only). All variants have one torch thread to a process, so that
the same sums are rounded the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file

ENGINES: dict[str, list[str]] = {
    "local": ["--engine", "local"],
    "local-batch": ["--engine", "local", "--client-batch", "8"],
    "ray": ["--engine", "ray"],
}
SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Measured:
    """One run: ``round`` is its median round's seconds, ``wall`` those of the whole command."""

    round: float
    wall: float
    peak_mb: float
    processes: int
    prompt: torch.Tensor
    base: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--clients", nargs="+", type=int, default=[8, 64])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--scale", nargs="+", type=int, metavar="N", help="so many clients on ray, for 20 rounds")
    options = parser.parse_args()
    if options.scale:
        scale(options.scale)
    else:
        compare(options.engines, options.clients, options.rounds)


def compare(engines: Sequence[str], clients: Sequence[int], rounds: int) -> None:
    print(f"{'clients':>7}  {'engine':<12} {'s/round':>8} {'s in all':>8} {'peak MB':>8} {'processes':>9}  prompts")
    for count in clients:
        reference = None
        for name in engines:
            found = run(["--rounds", str(rounds), *who(count), *ENGINES[name]])
            reference = found if reference is None else reference
            row = f"{found.round:8.2f} {found.wall:8.0f} {found.peak_mb:8.0f} {found.processes:9}"
            print(f"{count:7}  {name:<12} {row}  {likeness(reference.prompt, found.prompt)}", flush=True)


def scale(clients: Sequence[int]) -> None:
    """Of many clients 5 % take part, of a few all, so that the same number of actors is at work."""
    print(f"{'clients':>7} {'a round':>7} {'s/round':>8} {'s in all':>8} {'peak MB':>8} {'ratio':>6} {'base':>6}")
    first = None
    for count in clients:
        share = 0.05 if count >= 100 else 1.0
        words = ["--rounds", "20", "--participation", str(share), *who(count), *ENGINES["ray"]]
        found = run(words)
        first = found.peak_mb if first is None else first
        print(
            f"{count:7} {round(share * count):7} {found.round:8.2f} {found.wall:8.0f} {found.peak_mb:8.0f} "
            f"{found.peak_mb / first:6.2f} {found.base:6.3f}",
            flush=True,
        )


def who(clients: int) -> list[str]:
    """The 8 of the default task hold classes of their own; any other number draws classes that others hold too."""
    return ["--clients", str(clients), *([] if clients == 8 else ["--set", "task.overlap=true"])]


def run(words: Sequence[str]) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        fixed = ["--method", "promptfl", "--baselines", "none", "--threads", "1", "--quiet", "--run", str(place)]
        began = time.monotonic()
        command = [sys.executable, "-P", "-m", "promptfed.cli", "train", *fixed, *words]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
            peak, most = 0.0, 0
            while process.poll() is None:
                alive = list(descendants(process.pid))
                peak, most = max(peak, sum(map(pss_mb, alive))), max(most, len(alive))
                time.sleep(SAMPLE_SECONDS)
        if process.returncode:
            sys.exit(f"{' '.join(command)} ended with {process.returncode}")
        wall = time.monotonic() - began
        events = [json.loads(line) for line in (place / "events.jsonl").read_text().splitlines()]
        seconds = [event["seconds"] for event in events if event["event"] == "round"]
        state = load_file(sorted(place.glob("checkpoints/round-*"))[-1] / "state.safetensors")
        metrics = json.loads((place / "metrics.json").read_text())
        steady = median(seconds[1:] or seconds)
        return Measured(steady, wall, peak, most, state["shared/ctx"], metrics["method"]["base"])


def likeness(one: torch.Tensor, other: torch.Tensor) -> str:
    if torch.equal(one, other):
        return "the same bits"
    return f"differ by {(one - other).abs().max().item():.1e} at most"


def descendants(pid: int) -> Iterator[int]:
    """``pid`` and every process that it or they started."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    waiting = [pid]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += children.get(found, [])


def pss_mb(pid: int) -> float:
    """0 for a process that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


if __name__ == "__main__":
    main()
