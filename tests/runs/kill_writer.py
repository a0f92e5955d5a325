"""Not a test: a program that saves checkpoints in children that die, and says what could be loaded afterwards.

    kill_writer.py events FOLDER   child k dies just before its k-th file operation, for every k until one survives
    kill_writer.py random FOLDER   children are killed with SIGKILL after random times

One process imports torch once and forks; it prints one JSON line for each dead child.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from promptfed.prompt_state import PromptState
from promptfed.runs.checkpoint import load_checkpoint, save_checkpoint
from promptfed.types import FederationState

torch.set_num_threads(1)
TOUCHING = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")


def state_of(round: int, version: int) -> FederationState:
    """A state all of whose values tell its round and version."""
    return FederationState(round, PromptState({"ctx": torch.full((64, 64), round + version / 16)}))


def loaded(folder: Path) -> dict[str, object]:
    found = load_checkpoint(folder)
    if found is None:
        return {"round": None}
    state, events_bytes = found[:2]
    values = state.shared["ctx"].unique().tolist()
    return {"round": state.round, "values": values, "events_bytes": events_bytes}


def die_before_operation(number: int) -> None:
    seen = 0

    def hook(event: str, _arguments: object) -> None:
        nonlocal seen
        if event in TOUCHING:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def every_operation(root: Path) -> None:
    """Each child finds rounds 1, 2 and 3, saves round 3 anew (replacing) and then round 4 (dropping the oldest)."""
    for number in range(1, 1000):
        folder = root / str(number)
        for round in (1, 2, 3):
            save_checkpoint(folder, state_of(round, 0), events_bytes=10 * round, keep=3)
        child = os.fork()
        if child == 0:
            die_before_operation(number)
            save_checkpoint(folder, state_of(3, 1), events_bytes=31, keep=3)
            save_checkpoint(folder, state_of(4, 0), events_bytes=40, keep=3)
            os._exit(0)
        survived = os.waitpid(child, 0)[1] == 0
        first = loaded(folder)
        # the next writer goes on from what is there and must leave nothing behind
        save_checkpoint(folder, state_of(5, 0), events_bytes=50, keep=3)
        names = sorted(path.name for path in folder.iterdir())
        print(json.dumps({"survived": survived, "loaded": first, "after": loaded(folder), "names": names}))
        if survived:
            return


def random_moments(folder: Path) -> None:
    """A child saves rounds 1, 2, ... twice each as fast as it can, and tells through a pipe what it has saved."""
    draw = random.Random(0)
    for _ in range(6):
        read_end, write_end = os.pipe()
        start = loaded(folder)["round"] or 0
        child = os.fork()
        if child == 0:
            for round in range(int(start) + 1, 10**6):  # type: ignore[call-overload]
                for version in (0, 1):
                    save_checkpoint(folder, state_of(round, version), events_bytes=round, keep=2)
                os.write(write_end, f"{round}\n".encode())
        os.close(write_end)
        told = os.read(read_end, 64)
        time.sleep(draw.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(read_end, "rb") as pipe:
            told += pipe.read()
        print(json.dumps({"told": int(told.split()[-1]), "loaded": loaded(folder)}))


if __name__ == "__main__":
    {"events": every_operation, "random": random_moments}[sys.argv[1]](Path(sys.argv[2]))
