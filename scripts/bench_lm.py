"""Time a client's step of FedPrompt on a frozen language model against the plain loop around a PEFT model.

    python scripts/bench_lm.py                    # minilm, and gemma where promptfed[gemma] is installed
    python scripts/bench_lm.py --models gemma --repeat 5
    python scripts/bench_lm.py --json

A step is forward, backward and Adam on ``--texts`` texts of ``--tokens`` tokens each, under a soft prompt of
``--prompt`` tokens. *Promptfed* is the method's own ``train``: a causal model reads the prompt once for all texts, and
the word head has the rows of the label words at the answering position only. *Plain* is what the documentation of PEFT
shows: ``PeftModel`` with PROMPT_TUNING, logits of the whole vocabulary at every position, the same loss taken from
these. Both start from the same vectors, and take ``--steps`` steps with losses that must be equal to 1e-5. For the time
both run in one process by turns; the least of ``--repeat`` counts.

For the memory each runs in a process of its own. *Step* is the peak of what the process allocates beyond the loaded
model (anonymous memory). *Process* is the peak of all resident memory beyond the imported libraries, so the weights are
in it: both map them from the file, and the system counts the pages that were touched. MiniLM is an encoder without a
word head and sees both ways, so nothing can be saved there: plain has the same cosines of means.

At the end: bytes of one client's update as serialised, beside those of fine-tuning all weights in float32.

The second table has a prefix of the top third of the layers (``fedprefix`` with ``layers=top:M``). *All layers*
computes every layer in each step, forward and backward; *top layers* is the method as it is, which computes the states
below the prefix once. The first step, which does so, is not in the time.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import peft
import torch
import transformers  # noqa: F401  (both ways have imported the same before memory is read)
from torch.nn import functional as F

from promptfed.agreement import Agreement
from promptfed.examples.base import TextItem
from promptfed.language_models.gemma import PACKAGE
from promptfed.language_models.loading import load_language_model
from promptfed.language_models.model import LanguageModel
from promptfed.method import METHODS, Method
from promptfed.prompt_state import PromptState
from promptfed.setup import Setup
from promptfed.tasks.sources.bundled_texts import FORMS, source
from promptfed.tasks.sources.tables import Columns
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split

DATA, METHOD = "reviews", "fedprompt"
TABLES = (("plain", "promptfed"), ("all layers", "top layers"))
"""The two ways that each table compares."""
TOLERANCE = 1e-5
RATE = 0.01
MEGABYTE = 2**20
Step = Callable[[PromptState], tuple[float, PromptState]]


@dataclass(frozen=True)
class Case:
    """A client's texts, all rows of one length, with what FedPrompt starts from."""

    model: LanguageModel
    method: Method
    data: ClientData
    start: PromptState

    def promptfed(self, prompt: PromptState) -> tuple[float, PromptState]:
        """One step as the method takes it: the loss before it, and the prompt after it."""
        update, _ = self.method.train(Broadcast(1, prompt), self.data, NO_PROMPT)
        return update.loss, update.shared


def case_of(name: str, chosen: argparse.Namespace, *, is_top: bool = False) -> Case:
    """Return the case of the model called ``name``: a soft prompt, or a prefix of the top third of its layers."""
    model = load_language_model(f"lm:{name}", FORMS[DATA])
    texts = source(DATA, Columns())
    stock = [s for s in texts.samples if isinstance(s.item, TextItem)]
    items, labels = [], []
    for number in range(chosen.texts):
        words = " ".join(s.item.text for s in stock[number :: chosen.texts] if isinstance(s.item, TextItem))
        items.append(TextItem(cut_to(model, words, chosen.tokens)))
        labels.append(number % len(texts.classes))
    split = Split(tuple(items), torch.tensor(labels))
    empty = Split((), torch.zeros(0, dtype=torch.int64))
    data = ClientData(0, "client 0", tuple(range(len(texts.classes))), split, empty, empty)
    kind = METHODS["fedprefix" if is_top else METHOD]
    options = {"n_tokens": chosen.prompt, **({"layers": f"top:{model.layers // 3}"} if is_top else {})}
    config = kind.Config(lr=RATE, local_epochs=1, batch_size="all", schedule="constant", **options)
    agreement = Agreement(classes=tuple(texts.classes), templates=FORMS[DATA].prompts, rounds=1, seed=0)
    method = kind(config, Setup(model, agreement))
    return Case(model, method, data, method.init_shared())


def cut_to(model: LanguageModel, words: str, tokens: int) -> str:
    """Return the beginning of ``words`` whose row, with the template and the tokenizer's markers, has ``tokens``."""
    text = words
    while (surplus := len(model.writer.row(TextItem(text)).ids) - tokens) > 0:
        text = model.tokens.shortened(text, surplus)
    while surplus < 0:  # a cut word can be one token where it was two
        text += " so"
        surplus = len(model.writer.row(TextItem(text)).ids) - tokens
    if surplus:
        raise SystemExit(f"no text has exactly {tokens} tokens for {model.name}: choose other --tokens")
    return text


def plain(case: Case) -> Step:
    """Return a step as a loop around PEFT's model takes it."""
    model, size = case.model, len(case.start["prompt_embeddings"])
    task = peft.TaskType.CAUSAL_LM if model.has_words else peft.TaskType.FEATURE_EXTRACTION
    wrapped: Any = peft.get_peft_model(model.model, peft.PromptTuningConfig(task_type=task, num_virtual_tokens=size))
    vectors = wrapped.prompt_encoder.default.embedding.weight
    ids = torch.tensor([list(model.writer.row(item).ids) for item in case.data.train.items])
    mask, labels, classes = torch.ones_like(ids), case.data.train.labels, case.method.setup.classes
    words = model.label_ids(classes) if model.has_words else []
    described = model.class_means(classes) if not model.has_words else None

    def step(prompt: PromptState) -> tuple[float, PromptState]:
        with torch.no_grad():
            vectors.copy_(prompt["prompt_embeddings"])
        optimizer = torch.optim.Adam([vectors], lr=RATE)
        output = wrapped(input_ids=ids, attention_mask=mask)
        if described is None:
            scores = output.logits[:, -1][:, words]
        else:
            scores = model.cosines(output.last_hidden_state.mean(1), classes)
        loss = F.cross_entropy(scores, labels)
        loss.backward()
        optimizer.step()
        return loss.item(), PromptState({"prompt_embeddings": vectors.detach().clone()})

    return step


def ways_of(name: str, pair: Sequence[str], chosen: argparse.Namespace) -> tuple[Case, dict[str, Step]]:
    """Return the case of a table, and a step of each of its ways."""
    case = case_of(name, chosen, is_top=pair == TABLES[1])
    if pair == TABLES[0]:
        return case, {pair[0]: plain(case), pair[1]: case.promptfed}
    whole = replace(case, method=type(case.method)(case.method.config, case.method.setup))
    kind: Any = whole.method.kind  # type: ignore[attr-defined]
    kind.frozen_below = lambda values: 0
    return case, {pair[0]: whole.promptfed, pair[1]: case.promptfed}


def followed(step: Step, case: Case, steps: int) -> list[float]:
    """Return the losses of ``steps`` steps, each from the prompt of the one before."""
    prompt, losses = case.start, []
    for _ in range(steps):
        loss, prompt = step(prompt)
        losses.append(loss)
    return losses


def timed(name: str, pair: Sequence[str], chosen: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of a step of both ways, by turns, and their losses; and the bytes of an update."""
    case, ways = ways_of(name, pair, chosen)
    losses = {way: followed(step, case, chosen.steps) for way, step in ways.items()}
    seconds = dict.fromkeys(ways, math.inf)
    for _ in range(chosen.repeat):
        for way, step in ways.items():
            start = time.process_time()
            step(case.start)
            seconds[way] = min(seconds[way], time.process_time() - start)
    difference = max(abs(a - b) for a, b in zip(*losses.values(), strict=True))
    if difference > TOLERANCE:
        raise SystemExit(f"{name}: the losses differ by {difference:.1e}: {losses}")
    return {
        "seconds": seconds,
        "time_ratio": seconds[pair[0]] / seconds[pair[1]],
        "losses": losses,
        "largest_difference": difference,
        "bytes_of_an_update": case.promptfed(case.start)[1].nbytes,
        "bytes_of_all_weights": 4 * case.model.parameters,
    }


# ------------------------------------------------------------------------------------------------------- memory


def resident() -> dict[str, int]:
    """Return bytes of this process's memory: all that is resident, and what of it belongs to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    return {"process": 1024 * int(fields["VmRSS"]), "step": 1024 * int(fields["RssAnon"])}


@contextmanager
def watched(peaks: dict[str, int]) -> Iterator[None]:
    """Keep the largest figures of ``resident`` in ``peaks``, looked at every few milliseconds."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.003):
            for kind, size in resident().items():
                peaks[kind] = max(peaks.get(kind, 0), size)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def memory_here(name: str, way: str, chosen: argparse.Namespace) -> dict[str, int]:
    """Return the peaks of one way in this process, in bytes."""
    before = resident()["process"]
    case, ways = ways_of(name, next(pair for pair in TABLES if way in pair), chosen)
    step = ways[way]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading let go of is not what a step takes anew
    loaded, peaks = resident()["step"], dict[str, int]()
    with watched(peaks):
        followed(step, case, chosen.steps)
    return {"process": peaks["process"] - before, "step": peaks["step"] - loaded}


def memory_of(name: str, way: str, chosen: argparse.Namespace) -> dict[str, int]:
    """Return the peaks of one way in a process of its own."""
    numbers = {f"--{option}": str(getattr(chosen, option)) for option in ("texts", "tokens", "prompt", "steps")}
    words = [word for pair in numbers.items() for word in pair]
    command = [sys.executable, __file__, "--models", name, "--memory-of", way, *words]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    peaks: dict[str, int] = json.loads(answer.stdout.splitlines()[-1])
    return peaks


def heading(pair: Sequence[str]) -> str:
    """Return the head of a table."""
    columns = [f"{{}}{pair[0]} ({unit}) | {pair[1]} | ratio" for unit in ("s", "MB")]
    texts = [columns[0].format(""), columns[1].format("step: "), columns[1].format("process: ")]
    return f"| | {' | '.join(texts)} | losses differ | update (B) | of all weights |\n|---|{'---:|' * 12}"


def shown(name: str, pair: Sequence[str], row: dict[str, Any]) -> str:
    """Return a row of the table."""
    seconds, memory = row["seconds"], row["memory"]
    parts = [f"{seconds[pair[0]]:.2f}", f"{seconds[pair[1]]:.2f}", f"{row['time_ratio']:.2f}"]
    for kind in ("step", "process"):
        sizes = [memory[way][kind] / MEGABYTE for way in pair]
        parts += [f"{sizes[0]:,.0f}", f"{sizes[1]:,.0f}", f"{sizes[1] / sizes[0]:.2f}"]
    share = row["bytes_of_an_update"] / row["bytes_of_all_weights"]
    parts += [f"{row['largest_difference']:.0e}", f"{row['bytes_of_an_update']:,}", f"{100 * share:.4f} %"]
    return f"| {name} | {' | '.join(parts)} |"


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="minilm, gemma [both; gemma if it is installed]")
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32, help="of each text, with its template and markers")
    parser.add_argument("--prompt", type=int, default=20, help="tokens of the soft prompt")
    parser.add_argument("--steps", type=int, default=2, help="steps whose losses are compared")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--top-only", action="store_true", help="the second table alone")
    parser.add_argument("--memory-of", choices=[way for pair in TABLES for way in pair], help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = chosen.models.split(",") if chosen.models else ["minilm", *(["gemma"] if find_spec(PACKAGE) else [])]
    if chosen.memory_of:
        print(json.dumps(memory_here(names[0], chosen.memory_of, chosen)))
        return
    results: dict[str, dict[str, Any]] = {}
    for pair in TABLES[chosen.top_only :]:
        if not chosen.json:
            print(heading(pair))
        results[pair[1]] = {}
        for name in names:
            memory = {way: memory_of(name, way, chosen) for way in pair}
            results[pair[1]][name] = row = {**timed(name, pair, chosen), "memory": memory}
            if not chosen.json:
                print(shown(name, pair, row), flush=True)
    if chosen.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
