"""Time a population of prompts scored in one batch against one question at a time, and a second run from the cache.

    python scripts/bench_blackbox.py                       # minilm, and gemma where promptfed[gemma] is installed
    python scripts/bench_blackbox.py --oracles minilm,minilm-text --repeat 3
    python scripts/bench_blackbox.py --population 20 --examples 16 --tokens 5 --json

One generation of a search: ``--population`` soft prompts of ``--tokens`` vectors, each on the same ``--examples``
texts. *One by one* asks the model for one prompt on one text at a time, as a plain loop would; *one batch* hands the
whole generation to the oracle. Both start with a model that has read nothing, and must give the same scores to 1e-4.
*Again* asks for the same with the answers on disk: nothing of it may reach the model.

minilm puts the prompt before the labels and reads each text once, in either case; minilm-text puts it before the text
(``--set oracle.side=text``), where every query is a text of its own. Gemma gets a smaller population, so that
everything takes less than four minutes on two cores. The shortest of ``--repeat`` times counts.

At the end: bytes of one client and round as serialised, FedBPT's at the paper's d = 500 beside the pickled optimiser
that a server would send otherwise, FedKSeed's of ten steps.
"""

from __future__ import annotations

import argparse
import json
import pickle
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cma
import torch

from promptfed.blackbox.oracle_factory import load_oracle
from promptfed.blackbox.oracles.base import LocalBackend
from promptfed.blackbox.oracles.cache import AnswerCache
from promptfed.blackbox.oracles.local.gemma import PACKAGE
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate, ScoreQuery
from promptfed.communication import round_bytes, sizes_only
from promptfed.config import build_config
from promptfed.examples.base import Item, TextItem
from promptfed.experiment import Experiment, resolve
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream
from promptfed.tasks.sources.bundled_texts import FORMS, source
from promptfed.tasks.sources.tables import Columns

DATA = "reviews"
TOLERANCE = 1e-4
ORACLES = {"minilm": ("minilm", {}), "minilm-text": ("minilm", {"side": "text"}), "gemma": ("gemma", {})}
SMALLER = {"gemma": 5}
"""Populations of slow oracles are smaller by this."""


def fresh(name: str) -> LocalBackend:
    """A model that has read nothing yet, after a first pass on something else: that one is slower."""
    oracle, options = ORACLES[name]
    backend = load_oracle(oracle, FORMS[DATA], OracleOptions(cache=False, **options)).backend
    assert isinstance(backend, LocalBackend)
    Oracle(backend).score([Candidate("A first pass")], [TextItem("on something else.")], ["warm"])
    return backend


def generation(backend: LocalBackend, population: int, tokens: int) -> list[Candidate]:
    """Random soft prompts whose entries are as large as those of the model's own embeddings."""
    assert backend.soft is not None
    stream = torch_stream(0, "bench", backend.name)
    shape = (population, tokens, backend.soft.dim)
    return [Candidate(soft=vectors) for vectors in torch.randn(shape, generator=stream) * backend.soft.std]


@torch.no_grad()
def alone(backend: LocalBackend, prompt: Candidate, item: Item, classes: list[str]) -> torch.Tensor:
    """Scores ``(1, classes)`` of one prompt on one text, without the rows that an oracle fills a batch up with."""
    return backend.scores([ScoreQuery(prompt, item, tuple(classes), prompt.described())])


def measured(name: str, population: int, tokens: int, items: list[Item], classes: list[str], repeat: int) -> Any:
    """Seconds of either way, the largest difference of their scores, and what a second run costs."""
    one_by_one, one_batch, again = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeat):
            file = Path(folder) / f"{number}.sqlite"
            plain = fresh(name)
            prompts = generation(plain, population, tokens)
            start = time.perf_counter()
            apart = torch.stack([torch.cat([alone(plain, p, item, classes) for item in items]) for p in prompts])
            one_by_one.append(time.perf_counter() - start)
            first = Oracle(fresh(name), cache=AnswerCache(file))
            start = time.perf_counter()
            together = first.score(prompts, items, classes)
            one_batch.append(time.perf_counter() - start)
            second = Oracle(first.backend, cache=AnswerCache(file))
            start = time.perf_counter()
            known = second.score(prompts, items, classes)
            again.append(time.perf_counter() - start)
            if not torch.equal(known, together):
                raise SystemExit("the cache gave other scores than the model")
    return {
        "queries": len(prompts) * len(items),
        "one_by_one_seconds": min(one_by_one),
        "one_batch_seconds": min(one_batch),
        "ratio": min(one_by_one) / min(one_batch),
        "largest_difference": (apart - together).abs().max().item(),
        "again_seconds": min(again),
        "again_oracle_calls": second.usage().oracle_calls,
        "again_ratio": min(one_batch) / min(again),
    }


def wire(method: str, **options: Any) -> dict[str, int]:
    """Bytes of one client's first round; nothing is loaded or trained."""
    config = build_config({"task": "blackbox-text", "method": method, "method_options": options})
    found = round_bytes(Experiment.build(resolve(config), model_for=sizes_only))
    return {"down": found.down, "up": found.up}


def ten_steps() -> int:
    """Bytes of what a client of FedKSeed sends after ten steps."""
    return PromptState({"seeds": torch.zeros(10, dtype=torch.int64), "scalars": torch.zeros(10)}).nbytes


def pickled_optimiser(dim: int) -> int:
    """Bytes of a pycma optimiser with full covariance after one generation."""
    search = cma.CMAEvolutionStrategy([0.0] * dim, 1.0, {"popsize": 5, "seed": 1, "verbose": -9})
    points = search.ask()
    search.tell(points, [float((point**2).sum()) for point in points])
    return len(pickle.dumps(search))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracles", help=f"some of {', '.join(ORACLES)} [all; gemma if it is installed]")
    parser.add_argument("--population", type=int, default=20)
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=50, help="of a soft prompt (BBT and FedBPT have 50)")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    names = chosen.oracles.split(",") if chosen.oracles else [n for n in ORACLES if n != "gemma" or find_spec(PACKAGE)]
    texts = source(DATA, Columns())
    items, classes = [sample.item for sample in texts.samples[: chosen.examples]], list(texts.classes)
    found = {}
    for name in names:
        population = max(2, chosen.population // SMALLER.get(name, 1))
        found[name] = row = measured(name, population, chosen.tokens, items, classes, chosen.repeat)
        if not chosen.json:
            print(
                f"{name}: {row['queries']} queries one by one {row['one_by_one_seconds']:.2f} s, in one batch "
                f"{row['one_batch_seconds']:.2f} s: {row['ratio']:.1f} times as fast, scores differ by at most "
                f"{row['largest_difference']:.1e}; again from the cache {row['again_seconds'] * 1000:.0f} ms "
                f"({row['again_ratio']:.0f} times as fast), {row['again_oracle_calls']} oracle calls",
                flush=True,
            )
        if row["largest_difference"] > TOLERANCE or row["again_oracle_calls"]:
            raise SystemExit(
                f"{name}: scores differ by {row['largest_difference']:.1e}, or known answers were asked again"
            )
    fedbpt, steps = wire("fedbpt", dim=500), ten_steps()
    sent = {"fedbpt": fedbpt, "fedkseed_prompt": steps, "pickled_optimiser": pickled_optimiser(500)}
    if chosen.json:
        print(json.dumps({"threads": torch.get_num_threads(), **found, "bytes": sent}, indent=2))
        return
    print(
        f"bytes of a client and round: FedBPT at d=500 {fedbpt['down']:,} down and {fedbpt['up']:,} up, a pickled "
        f"optimiser {sent['pickled_optimiser']:,}; ten steps of FedKSeed {steps:,} up"
    )


if __name__ == "__main__":
    main()
