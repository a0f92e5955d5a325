"""What a round costs between real processes on this machine, in three ways that lead to the same prompt.

    python scripts/bench_sites.py                three sites, four rounds of PromptFL on small pictures
    python scripts/bench_sites.py --ways kept,start

The ways: `each` has a new process load torch, data and model for every message (flower-supernode with
keep-process-seconds=0); `kept` has each site keep its process (flower-supernode); `start` is `promptfed site start`.

A SuperLink and the nodes of all sites run on 127.0.0.1. The overhead of a round is its time without the training of its
slowest site. Exit code 1 if two prompts differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from promptfed.deployment.local_deployment import loopback
from promptfed.runs.events import EventLog

WAYS = ("each", "kept", "start")


@dataclass(frozen=True)
class Rounds:
    """What one run came to: seconds a round."""

    sha256: str
    whole: list[float]
    training: list[float]
    started: list[float]
    seconds: float

    @property
    def overhead(self) -> list[float]:
        return [whole - training for whole, training in zip(self.whole, self.training, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--poll", default="0.2", help="seconds between two looks of the server for answers")
    parser.add_argument("--keep", type=Path, help="folder for runs and logs [a temporary one]")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.keep or Path(temporary)).resolve()
        pictures(folder / "pictures")
        hashes = set()
        for way in asked.ways.split(","):
            rounds = run(folder, way, asked)
            hashes.add(rounds.sha256)
            show(way, rounds)
    if len(hashes) > 1:
        sys.exit("the prompts differ")
    print("one prompt, bit for bit")


def pictures(folder: Path) -> None:
    """Write plain pictures of twelve classes."""
    for k in range(12):
        (folder / f"class {k}").mkdir(parents=True)
        for i in range(6):
            colour = (20 * k, (90 * k + 11 * i) % 256, 255 - 20 * k)
            Image.new("RGB", (16, 16), colour).save(folder / f"class {k}" / f"{i}.png")


def run(folder: Path, way: str, asked: argparse.Namespace) -> Rounds:
    """Run over processes in one of the ways."""
    app, place, began = folder / way / "app", folder / way / "run", time.monotonic()
    (folder / way).mkdir()
    options = ["--data", f"folder:{folder / 'pictures'}", "--clients", asked.sites, "--rounds", asked.rounds]
    options += ["--shots", 1, "--set", "task.val_shots=1", "--set", "backbone=tiny", "--method", "promptfl"]
    options += ["--baselines", "none", "--set", "validate_every=0", "--min-sites", asked.sites, "--run", place]
    words = [str(word) for word in ["flower", "init", app, *options]]
    subprocess.run([sys.executable, "-P", "-m", "promptfed", *words, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    more = " keep-process-seconds=0" if way == "each" else ""
    with loopback(folder / way / "log") as deployment:
        for k in range(asked.sites):
            node_config = f'partition-id={k} state-dir="{folder / way / f"site{k}"}"{more}'
            deployment.start_node(f"node{k}", node_config, plain=way != "start")
        deployment.begin_run(app, f"poll-seconds={asked.poll}")
        deployment.finish_run(4 * 3600)
    events = list(EventLog(place / "events.jsonl").read())
    clients = [event for event in events if event["event"] == "client"]
    whole = {event["round"]: event["seconds"] for event in events if event["event"] == "round"}
    return Rounds(
        json.loads((place / "metrics.json").read_text())["prompt_sha256"],
        [whole[round] for round in sorted(whole)],
        [max(event["seconds"] for event in clients if event["round"] == round) for round in sorted(whole)],
        [event["start_seconds"] for event in clients],
        time.monotonic() - began,
    )


def show(way: str, rounds: Rounds) -> None:
    """Print the medians, and the overhead of each round."""
    whole, training, started = map(statistics.median, (rounds.whole, rounds.training, rounds.started))
    load = f"{os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    print(
        f"{way:5} prompt {rounds.sha256[:12]}: round {whole:.1f} s, training {training:.1f} s, start of a site's work"
        f" {started:.1f} s, overhead {statistics.median(rounds.overhead):.1f} s"
        f" ({', '.join(f'{seconds:.1f}' for seconds in rounds.overhead)}); all {rounds.seconds:.0f} s, load {load}",
        flush=True,
    )


if __name__ == "__main__":
    main()
