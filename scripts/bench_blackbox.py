"""Time a population of prompts: what they share read once, against rows read whole and one question at a time.

    python scripts/bench_blackbox.py                       # minilm, clip, and gemma where promptfed[gemma] is installed
    python scripts/bench_blackbox.py --oracles gemma,gemma-text --repeat 1
    python scripts/bench_blackbox.py --oracles clip --json

One generation of a search: ``--population`` prompts of ``--tokens`` tokens, each on the same ``--examples`` examples.
*One by one* asks the model for one prompt on one example at a time, as a plain loop would. *Whole* hands the generation
to the model in batches of rows that are read from the first token to the last. *Batch* is what the oracle does: what
rows begin with is read once. All start with a model that has read nothing, and must give the same scores to 1e-4.
*Again* asks for the same with the answers on disk: nothing of it may reach the model. Seconds are of the processor, on
one thread; the least of ``--repeat`` counts, the ways in turn.

minilm puts the prompt before the labels and reads each text once; minilm-text puts it before the text
(``--set oracle.side=text``). Neither is causal, so nothing is shared: whole and batch are the same way. clip is the
text tower of ViT-B-16 with random weights and 20 classes, under soft prompts (clip-text: words) of ``--clip-tokens``
tokens; its images are ready. gemma reads soft prompts, gemma-text instructions in words, gemma-shots the same behind
four worked examples; one by one is a part of the generation there, scaled up. All takes some four minutes.

At the end: bytes of one client and round as serialised, FedBPT's at the paper's d = 500 beside the pickled optimiser
that a server would send otherwise, FedKSeed's of ten steps.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cma
import open_clip
import torch

from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.blackbox.oracle_factory import load_oracle
from promptfed.blackbox.oracles.base import LocalBackend
from promptfed.blackbox.oracles.cache import AnswerCache
from promptfed.blackbox.oracles.local.clip import Clip
from promptfed.blackbox.oracles.local.language_model import LanguageModel
from promptfed.blackbox.oracles.local.minilm import MiniLM
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate, ScoreQuery
from promptfed.communication import round_bytes, sizes_only
from promptfed.config import build_config
from promptfed.examples.base import Item, TextItem
from promptfed.experiment import Experiment
from promptfed.language_models.gemma import PACKAGE
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_state import PromptState
from promptfed.prompt_template import PromptTemplate
from promptfed.resolve import resolve
from promptfed.seeding import torch_stream
from promptfed.tasks.sources.bundled_texts import FORMS, source
from promptfed.tasks.sources.tables import Columns

DATA = "reviews"
TOLERANCE = 1e-4
ORACLES = ("minilm", "minilm-text", "clip", "clip-text", "gemma", "gemma-text", "gemma-shots")
ARCHITECTURE = "ViT-B-16"
NAMES = (
    *("airplane", "bonsai", "chandelier", "cougar face", "dalmatian", "dragonfly", "electric guitar", "euphonium"),
    *("ewer", "ferry", "flamingo", "grand piano", "hawksbill turtle", "helicopter", "kangaroo", "menorah"),
    *("revolver", "scorpion", "sunflower", "trilobite"),
)
SENTENCES = (
    "Read what a customer writes about a film, a book, a place or a thing that was bought, and say how they feel.",
    "Decide from the words alone whether the review that follows is positive or negative, and look out for irony.",
    "Here is a close photograph of one bright object that stands on a plain table in clear light by a window.",
)
ALONE = 16
"""Questions that slow models are asked one by one; the time of all is scaled up from them."""


@dataclass(frozen=True)
class Case:
    """A model, its prompts and examples. ``read_whole``: let it read every row whole; ``forget``: what it has read."""

    backend: LocalBackend
    prompts: list[Candidate]
    items: list[Item]
    classes: list[str]
    read_whole: Callable[[], AbstractContextManager[None]]
    forget: Callable[[], None]
    is_slow: bool


def soft_prompts(backend: LocalBackend, count: int, tokens: int) -> list[Candidate]:
    """Return random soft prompts whose entries are as large as those of the model's own embeddings."""
    assert backend.soft is not None
    stream = torch_stream(0, "bench", backend.name)
    shape = (count, tokens, backend.soft.dim)
    return [Candidate(soft=vectors) for vectors in torch.randn(shape, generator=stream) * backend.soft.std]


def text_prompts(count: int, tokens: int, length: Callable[[str], int], sentences: Sequence[str]) -> list[Candidate]:
    """Return instructions of some ``tokens``, which differ from the first word on."""
    prompts = []
    for number in range(count):
        words = f"{('One', 'Two', 'Three', 'Four', 'Five')[number % 5]} {number} {' '.join(sentences)}".split()
        while length(" ".join(words)) > tokens:
            words.pop()
        prompts.append(Candidate(" ".join(words)))
    return prompts


@cache
def gemma() -> LanguageModel:
    """Return the oracle gemma, loaded once."""
    backend = load_oracle("gemma", FORMS[DATA], OracleOptions(cache=False)).backend
    assert isinstance(backend, LanguageModel)
    return backend


def case_of(name: str, chosen: argparse.Namespace) -> Case:
    """Return the case called ``name``."""
    kind = name.partition("-")[0]
    texts = source(DATA, Columns())
    items, classes = [sample.item for sample in texts.samples[: chosen.examples]], list(texts.classes)
    if kind == "clip":
        return clip_case(name, chosen)
    if kind == "gemma":
        form = FORMS[DATA]
        if name == "gemma-shots":
            shots = [(sample.item, form.word(texts.classes[sample.label])) for sample in texts.samples[-4:]]
            lines = [f"{form.example(item.text)} {word}\n\n" for item, word in shots if isinstance(item, TextItem)]
            form = form.model_copy(update={"preamble": "".join(lines)})
        loaded = gemma()
        language = LanguageModel("gemma", form, loaded.model, loaded.tokens.tokenizer, masked=False)
        prompts = soft_prompts(language, chosen.population, chosen.tokens)
        if name != "gemma":
            prompts = text_prompts(
                chosen.population, chosen.tokens, lambda text: len(language.tokens.start(text)), SENTENCES[:2]
            )
        swapped = partial(attribute, language, "_reader", None)
        return Case(language, prompts, items, classes, swapped, lambda: None, True)
    options = OracleOptions(cache=False, side="text" if name == "minilm-text" else "label")
    encoder = load_oracle("minilm", FORMS[DATA], options).backend
    assert isinstance(encoder, MiniLM)

    def forget() -> None:
        encoder._texts.clear()
        encoder._labels.clear()

    prompts = soft_prompts(encoder, chosen.population, chosen.tokens)
    return Case(encoder, prompts, items, classes, nullcontext, forget, False)


def clip_case(name: str, chosen: argparse.Namespace) -> Case:
    """Return the case of a CLIP whose image features are random; only its text tower works."""
    logging.getLogger().setLevel(logging.ERROR)  # the weights are random, as they should be
    torch.manual_seed(0)
    model = open_clip.create_model(ARCHITECTURE, pretrained=None)
    backbone = OpenClipBackbone(ARCHITECTURE, model, open_clip.get_tokenizer(ARCHITECTURE))
    backend = Clip(PromptTemplate(), backbone)
    items: list[Item] = [TextItem(f"image {number}") for number in range(chosen.examples)]
    features = dict(zip(items, torch.randn(len(items), backbone.embed_dim), strict=True))
    backend._image_features = lambda queries: torch.stack([features[q.item] for q in queries])  # type: ignore
    tokens = chosen.clip_tokens
    prompts = soft_prompts(backend, chosen.population, tokens)
    if name == "clip-text":
        ids = open_clip.get_tokenizer(ARCHITECTURE)
        prompts = text_prompts(chosen.population, tokens, lambda text: int((ids([text]) > 0).sum()) - 2, SENTENCES[2:])
    swapped = partial(attribute, backbone._tower, "prefixes", None)
    return Case(backend, prompts, items, list(NAMES), swapped, backend._texts.clear, False)


@contextmanager
def attribute(owner: object, name: str, value: object) -> Iterator[None]:
    """Let ``owner`` have another attribute for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@torch.no_grad()
def one_by_one(case: Case) -> tuple[torch.Tensor, float]:
    """Return scores ``(questions, classes)`` of one prompt on one example at a time, and seconds of the processor."""
    pairs = [(prompt, item) for prompt in case.prompts for item in case.items]
    some = pairs[:: max(1, len(pairs) // ALONE)] if case.is_slow else pairs
    scores, start = [], time.process_time()
    for prompt, item in some:
        scores.append(case.backend.scores([ScoreQuery(prompt, item, tuple(case.classes), prompt.described())]))
    return torch.cat(scores), (time.process_time() - start) * len(pairs) / len(some)


def measured(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of each way, the largest difference of their scores, and what a second run costs."""
    case, seconds, tokens = case_of(name, chosen), dict[str, float](), [0]

    def count(module: Any, inputs: Any, named: Any) -> None:
        tokens[-1] += named["inputs_embeds"].shape[:2].numel()

    if isinstance(case.backend, LanguageModel):
        case.backend.model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    Oracle(case.backend).score(case.prompts[:2], case.items[:2], case.classes)
    tokens[:] = [0, 0]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(chosen.repeat):
            first = Oracle(case.backend, cache=AnswerCache(Path(folder) / f"{number}.sqlite"))
            scores = {}
            for way, oracle, context in (
                ("batch", first, nullcontext),
                ("whole", Oracle(case.backend), case.read_whole),
            ):
                case.forget()
                start = time.process_time()
                with context():
                    scores[way] = oracle.score(case.prompts, case.items, case.classes)
                seconds[way] = min(seconds.get(way, math.inf), time.process_time() - start)
                tokens.append(0)
            case.forget()
            apart, alone = one_by_one(case)
            seconds["one_by_one"] = min(seconds.get("one_by_one", math.inf), alone)
            second = Oracle(case.backend, cache=AnswerCache(Path(folder) / f"{number}.sqlite"))
            start = time.process_time()
            again = second.score(case.prompts, case.items, case.classes)
            seconds["again"] = min(seconds.get("again", math.inf), time.process_time() - start)
            if not torch.equal(again, scores["batch"]):
                raise SystemExit("the cache gave other scores than the model")
    together, rows = scores["batch"], scores["batch"].flatten(0, 1)
    rows = rows[:: max(1, len(rows) // ALONE)] if case.is_slow else rows
    return {
        "questions": together[..., 0].numel(),
        "seconds": seconds,
        "whole_ratio": seconds["whole"] / seconds["batch"],
        "one_by_one_ratio": seconds["one_by_one"] / seconds["batch"],
        "tokens": {"batch": tokens[1], "whole": tokens[2]} if tokens[1] else None,
        "largest_difference": max((together - scores["whole"]).abs().max().item(), (rows - apart).abs().max().item()),
        "again_oracle_calls": second.usage().oracle_calls,
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


def shown(name: str, row: dict[str, Any]) -> str:
    """Return a row of the table."""
    seconds, tokens = row["seconds"], row["tokens"]
    of_tokens = f"{tokens['whole']:,} / {tokens['batch']:,}" if tokens else ""
    times = " | ".join(f"{seconds[way]:.2f}" for way in ("one_by_one", "whole", "batch"))
    return (
        f"| {name} | {row['questions']} | {times} | {row['one_by_one_ratio']:.1f} | {row['whole_ratio']:.2f} | "
        f"{of_tokens} | {row['largest_difference']:.0e} | {seconds['again'] * 1000:.0f} ms |"
    )


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracles", help=f"some of {', '.join(ORACLES)} [all; gemma if it is installed]")
    parser.add_argument("--population", type=int, default=8)
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=50, help="of a prompt of minilm and gemma (BBT and FedBPT: 50)")
    parser.add_argument("--clip-tokens", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    installed = [name for name in ORACLES if not name.startswith("gemma") or find_spec(PACKAGE)]
    names = chosen.oracles.split(",") if chosen.oracles else installed
    if not chosen.json:
        print("| | questions | one by one (s) | whole (s) | batch (s) | by one / batch | whole / batch", end="")
        print(" | tokens whole / batch | scores differ | again |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    results = {}
    for name in names:
        results[name] = row = measured(name, chosen)
        if not chosen.json:
            print(shown(name, row), flush=True)
        if row["largest_difference"] > TOLERANCE or row["again_oracle_calls"]:
            raise SystemExit(
                f"{name}: scores differ by {row['largest_difference']:.1e}, or known answers were asked again"
            )
    fedbpt, steps = wire("fedbpt", dim=500), ten_steps()
    sizes = {"fedbpt": fedbpt, "fedkseed_prompt": steps, "pickled_optimiser": pickled_optimiser(500)}
    if chosen.json:
        print(json.dumps({"threads": torch.get_num_threads(), **results, "bytes": sizes}, indent=2))
        return
    print(
        f"bytes of a client and round: FedBPT at d=500 {fedbpt['down']:,} down and {fedbpt['up']:,} up, a pickled "
        f"optimiser {sizes['pickled_optimiser']:,}; ten steps of FedKSeed {steps:,} up"
    )


if __name__ == "__main__":
    main()
