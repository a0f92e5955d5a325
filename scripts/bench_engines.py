"""Time a round on each engine, and its memory, all processes included; check that the prompts are the same.

    python scripts/bench_engines.py                       # PromptFL, 8 clients and 64, four rounds; some minutes
    python scripts/bench_engines.py --scale               # 100 clients and 10,000, of which 50 take part in a round
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
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file

ENGINES: dict[str, list[str]] = {
    "local": ["--engine", "local"],
    "local-batch": ["--engine", "local", "--client-batch", "8"],
    "ray": ["--engine", "ray"],
}
SAMPLE_SECONDS = 0.5
TAKE_PART = 50
SCALE_ROUNDS = 12


@dataclass(frozen=True)
class Measured:
    """One run: ``round`` is its median round's seconds, ``wall`` those of the whole command.

    ``interval``: median seconds from one round's end to the next one's; ``start``: until the first round begins;
    ``tests``: from the last round's end.
    """

    round: float
    interval: float
    start: float
    tests: float
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
    parser.add_argument(
        "--scale", nargs="*", type=int, metavar="N", help=f"so many clients, of which {TAKE_PART} take part in a round"
    )
    options = parser.parse_args()
    if options.scale is not None:
        scale([name for name in options.engines if name in ("local", "ray")], options.scale or [100, 10_000])
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


def scale(engines: Sequence[str], clients: Sequence[int]) -> None:
    """Print memory and seconds a client and round, each also as a ratio to the first number of clients.

    "training" is the round itself; "in all" is from the end of one round to the end of the next: the draw, broadcasts,
    merge, validation and checkpoint as well. "start" is what happens before the first round, "tests" what comes after
    the last.
    """
    print(
        f"{'engine':<6} {'clients':>7} {'peak MB':>8} {'ratio':>6} {'training':>9} {'ratio':>6} {'in all':>9} "
        f"{'ratio':>6} {'start s':>8} {'tests s':>8} {'base':>6}"
    )
    for name in engines:
        first: Measured | None = None
        for count in clients:
            share = min(1.0, TAKE_PART / count)
            words = ["--rounds", str(SCALE_ROUNDS), "--participation", str(share), *who(count), *ENGINES[name]]
            found = run(words)
            first = first or found
            each = min(TAKE_PART, count)
            print(
                f"{name:<6} {count:7} {found.peak_mb:8.0f} {found.peak_mb / first.peak_mb:6.2f} "
                f"{1000 * found.round / each:6.1f} ms {found.round / first.round:6.2f} "
                f"{1000 * found.interval / each:6.1f} ms {found.interval / first.interval:6.2f} "
                f"{found.start:8.1f} {found.tests:8.1f} {found.base:6.3f}",
                flush=True,
            )


def who(clients: int) -> list[str]:
    """The 8 of the default task hold classes of their own; any other number draws classes that others hold too."""
    return ["--clients", str(clients), *([] if clients == 8 else ["--set", "task.overlap=true"])]


def run(words: Sequence[str]) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        fixed = ["--method", "promptfl", "--baselines", "none", "--threads", "1", "--quiet", "--run", str(place)]
        began, began_clock = time.monotonic(), time.time()
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
        ends = [datetime.fromisoformat(event["time"]) for event in events if event["event"] == "round"]
        gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(ends)]
        began_at = datetime.fromtimestamp(began_clock, UTC)
        start = (ends[0] - began_at).total_seconds() - seconds[0]
        tests = wall - (ends[-1] - began_at).total_seconds()
        return Measured(
            steady, median(gaps), start, tests, wall, peak, most, state["shared/ctx"], metrics["method"]["base"]
        )


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
