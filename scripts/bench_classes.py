"""Show accuracy against seconds where there are many classes, for the ways to encode fewer texts.

    python scripts/bench_classes.py                   # 100, 300 and 1,000 classes; some minutes
    python scripts/bench_classes.py --classes 300     # these alone
    python scripts/bench_classes.py --keep DIR        # keep the pictures, and use them again

The data are a folder of pictures of 32 pixels, drawn from icon fonts that ``tiny`` never saw: a class is the word of a
glyph. The federation is PromptFL's with all defaults: 8 clients, each with an eighth of the classes, ``--shots``
examples of each class. Features of images are cached before any clock starts. All ways have the same seed, data and
start. A way ends after ``--rounds`` rounds, or when it has trained for as long as ``--limit`` says for this number of
classes; the learning rate falls over ``--rounds`` rounds in all of them. Seconds are those of this process on one
thread, of training alone. Accuracy is that on the test images of all classes, among all classes.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
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
CLIENTS = 8
TEST_IMAGES = 2
WAYS: dict[str, dict[str, Any]] = {
    "batch_size=32": {"batch_size": 32},
    "accumulate=8": {"batch_size": 32, "accumulate": 8},
    "batch_size=all": {"batch_size": "all"},
    "class_sample=64": {"batch_size": 32, "class_sample": 64},
    "class_sample=256": {"batch_size": 32, "class_sample": 256},
    "default (auto)": {},
}
LIMITS = {100: 10.0, 300: 20.0, 1000: 50.0}
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
    """What one way has reached: ``points`` are (seconds, accuracy) after each round."""

    points: list[tuple[float, float]]
    texts: int
    steps: int
    zero: float

    @property
    def seconds(self) -> float:
        return self.points[-1][0]

    @property
    def accuracy(self) -> float:
        return self.points[-1][1]

    def at(self, seconds: float) -> float:
        """Return the accuracy after the last round that ended within ``seconds``."""
        return max([(0.0, self.zero), *(point for point in self.points if point[0] <= seconds)])[1]


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
    calls, state, seconds, points, texts = experiment.setup.backbone.calls, federation.start(), 0.0, [], 0
    zero = test_accuracy(experiment, federation.method, state.shared)
    for _ in range(rounds):
        before, began = calls.texts, time.process_time()
        state, _ = federation.run_round(state)
        seconds, texts = seconds + time.process_time() - began, texts + calls.texts - before
        points.append((seconds, test_accuracy(experiment, federation.method, state.shared)))
        if seconds > limit:
            break
    return Outcome(points, texts, 0, zero)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=list(LIMITS))
    parser.add_argument("--shots", type=int, default=8)
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
            print(f"\n{count} classes; {time.perf_counter() - began:.0f} s to read and encode the pictures\n")
            print(
                "| way | rounds | seconds | texts encoded | accuracy | curve |\n|---|---|---|---|---|---|", flush=True
            )
            limit = args.limit or LIMITS.get(count, 0.05 * count)
            for name in args.ways or WAYS:
                options = WAYS.get(name) or dict(part.split("=") for part in name.split(","))
                outcome = measured(experiment, options, args.rounds, limit)
                curve = " ".join(f"{seconds:.0f}:{100 * share:.1f}" for seconds, share in outcome.points)
                reached = f"{len(outcome.points)} | {outcome.seconds:.1f} | {outcome.texts:,}"
                print(f"| {name} | {reached} | {100 * outcome.accuracy:.1f} | 0:{100 * outcome.zero:.1f} {curve} |")


if __name__ == "__main__":
    main()
