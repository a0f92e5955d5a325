"""Show accuracy against seconds where there are many classes, for the ways to encode fewer texts.

    python scripts/bench_classes.py                   # 100, 300 and 1,000 classes; some minutes
    python scripts/bench_classes.py --classes 300     # these alone
    python scripts/bench_classes.py --keep DIR        # keep the pictures, and use them again

The data are a folder of pictures of 32 pixels, drawn from icon fonts that ``tiny`` never saw: a class is the word of a
glyph. PromptFL's options are the defaults but for those of the way. There are 8 clients, each with an eighth of the
classes and ``--shots`` examples of each; two of them work in a round. Features of images are cached before any clock
starts. All ways have the same seed, data and start. A way ends after ``--rounds`` rounds, over which the learning rate
falls, or after the round in which it has trained for ``--limit`` seconds. Seconds are those of this process on one
thread, of training alone. Accuracy is that on the test images of all classes, among all classes: after the last round,
and after the last round that ended within the seconds that the default took for all of its rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from promptfed.config import build_config
from promptfed.evaluation import accuracy
from promptfed.experiment import Experiment
from promptfed.tasks.sources import icons
from promptfed.types import NO_PROMPT, ClientPrompt

SIZE = 32
CLIENTS, WORKING = 8, 0.25
TEST_IMAGES = 2
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "batch_size=32": {"batch_size": 32},
    "accumulate=4": {"batch_size": 32, "accumulate": 4},
    "batch_size=all": {"batch_size": "all"},
    "class_sample=64": {"batch_size": 32, "class_sample": 64},
    "class_sample=256": {"batch_size": 32, "class_sample": 256},
}
LIMITS = {100: 10.0, 300: 15.0, 1000: 35.0}
"""Classes -> seconds of training after which a way ends."""


def words(count: int) -> dict[str, list[icons.Glyph]]:
    """Return so many words, drawn by hash, and the glyphs that show each."""
    by_word, spelling = defaultdict(list), {}
    for glyph in icons.glyphs():
        letters = glyph.concept.replace(" ", "")
        if glyph.family in icons.HELD_OUT_FAMILIES and letters.isalpha():
            by_word[spelling.setdefault(letters, glyph.concept)].append(glyph)  # "play list" is "playlist"
    names = sorted(by_word, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    if len(names) < count:
        raise SystemExit(f"the fonts show {len(names)} words, not {count}: ask for fewer classes")
    return {name: by_word[name] for name in names[:count]}


def draw(folder: Path, count: int, images: int) -> Path:
    """Write a folder a class with ``images`` pictures each, those that are not there yet."""
    for name, glyphs in words(count).items():
        place = folder / str(count) / name.replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        for number in range(images):
            path = place / f"{number:02}.png"
            if not path.exists():
                seed = int.from_bytes(hashlib.sha256(f"{name}|{number}".encode()).digest()[:8], "big")
                icons.render(glyphs[number % len(glyphs)], np.random.default_rng(seed), SIZE).save(path)
    return folder / str(count)


@dataclass(frozen=True)
class Outcome:
    """What one way has reached: ``points`` are (seconds, accuracy) at the start and after each round."""

    points: list[tuple[float, float]]
    texts: int

    @property
    def rounds(self) -> int:
        return len(self.points) - 1

    @property
    def seconds(self) -> float:
        return self.points[-1][0]

    def accuracy_within(self, seconds: float) -> float:
        """Return the accuracy after the last round that ended within ``seconds``."""
        return [reached for took, reached in self.points if took <= seconds][-1]

    def line(self, name: str, default: Outcome) -> str:
        """Return a row of the table."""
        last, then = self.accuracy_within(self.seconds), self.accuracy_within(default.seconds)
        per_round = self.seconds / self.rounds
        cells = (
            f"`{name}`",
            f"{per_round:.2f} ({per_round * default.rounds / default.seconds:.2f})",
            f"{self.texts / self.rounds:,.0f}",
            f"{self.rounds} in {self.seconds:.0f} s",
            f"{100 * last:.1f}",
            f"{100 * then:.1f}",
        )
        return f"| {' | '.join(cells)} |"


def test_accuracy(experiment: Experiment, method: Any, shared: Any) -> float:
    """Return the accuracy of the shared prompt on all test images, among all classes."""
    return float(
        accuracy(method, ClientPrompt(shared, NO_PROMPT), experiment.task.base_classes, experiment.task.base_test)
    )


def measured(experiment: Experiment, options: Mapping[str, Any], rounds: int, limit: float) -> Outcome:
    """Train one way on the task, model and features of ``experiment``."""
    config = experiment.config.model_copy(update={"method_options": dict(options)})
    experiment = Experiment.build(config, like=experiment)
    federation = experiment.federation()
    calls, state, texts, seconds = experiment.setup.backbone.calls, federation.start(), 0, 0.0
    points = [(0.0, test_accuracy(experiment, federation.method, state.shared))]
    while state.round < rounds and seconds < limit:
        before, began = calls.texts, time.process_time()
        state, _ = federation.run_round(state)
        seconds, texts = seconds + time.process_time() - began, texts + calls.texts - before
        points.append((seconds, test_accuracy(experiment, federation.method, state.shared)))
    return Outcome(points, texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=list(LIMITS))
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--limit", type=float, help="seconds of training of a way")
    parser.add_argument("--ways", nargs="+", help=f"some of: {', '.join(WAYS)}; or NAME=VALUE,...")
    parser.add_argument("--keep", type=Path, help="folder of the pictures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as temporary:
        for count in args.classes:
            images = args.shots + 1 + TEST_IMAGES
            folder = draw(args.keep or Path(temporary), count, images)
            config = build_config(
                {
                    "data": f"folder:{folder}",
                    "clients": CLIENTS,
                    "shots": args.shots,
                    "participation": WORKING,
                    "rounds": args.rounds,
                    "partition": "classes",
                    "backbone": "tiny",
                    "threads": 1,
                    "task_options": {"base_fraction": 1, "val_shots": 1, "test_fraction": TEST_IMAGES / images},
                }
            )
            began = time.perf_counter()
            experiment = Experiment.build(config)
            experiment.fill_features()
            print(f"{count} classes: {time.perf_counter() - began:.0f} s to read the pictures", file=sys.stderr)
            limit, outcomes = args.limit or LIMITS.get(count, 0.04 * count), {}
            for name in ("default", *(name for name in args.ways or WAYS if name != "default")):
                options = WAYS[name] if name in WAYS else dict(part.split("=") for part in name.split(","))
                outcomes[name] = measured(experiment, options, args.rounds, limit)
                curve = " ".join(f"{took:.1f}:{100 * reached:.1f}" for took, reached in outcomes[name].points)
                print(f"  {name}: {curve}", file=sys.stderr, flush=True)
            print(f"\n{count} classes, at the start {100 * outcomes['default'].points[0][1]:.1f} %\n")
            print("| way | seconds a round (of the default's) | texts a round | rounds | accuracy | in equal time |")
            print("|---|---|---|---|---|---|")
            for name, outcome in outcomes.items():
                print(outcome.line(name, outcomes["default"]), flush=True)


if __name__ == "__main__":
    main()
