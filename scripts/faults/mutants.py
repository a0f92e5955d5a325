"""Files that promptfed reads, damaged and forged, each given to its reader.

Originals are made by the library itself. A mutant is one original with bytes or values changed; of files that are named
by a checksum elsewhere, the checksum is put right, as somebody who means harm would. A reader may take a mutant or
refuse it in one line of a PromptFedError; anything else is a fault of promptfed's, as are more than LONGEST seconds and
more than MOST_MEMORY bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import random
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save

from faults.outcomes import Outcome
from promptfed.blackbox.oracles.query import OracleAnswer
from promptfed.config import RunConfig, build_config, parse_settings, read_yaml
from promptfed.errors import PromptFedError
from promptfed.examples.base import FileItem
from promptfed.export.bundle import read_bundle
from promptfed.files.sealed_json import SEAL, sealed_json
from promptfed.methods.fedtpg.checkpoint import read_released
from promptfed.methods.fedtpg.generator import ContextGenerator
from promptfed.prompt_state import PromptState
from promptfed.report.summary import run_summary
from promptfed.runs.checkpoint import load_checkpoint, save_checkpoint
from promptfed.runs.directory import RunDirectory
from promptfed.runs.personalized import SavedClient, TuningOrigin, load_client, save_client
from promptfed.tasks.sources.class_names import read_class_table
from promptfed.tasks.sources.coop import read_split
from promptfed.tasks.sources.csv_file import read_rows
from promptfed.tasks.sources.jsonl import rows as jsonl_rows
from promptfed.tasks.sources.tsv import rows as tsv_rows
from promptfed.types import FederationState, Reply, Update
from promptfed.usage import Usage

SUITE = "damaged and forged files"
LONGEST, MOST_MEMORY = 5, 200_000_000
Draw = random.Random


@dataclass(frozen=True)
class Target:
    """A file as promptfed writes it, and who reads it. ``mend`` puts right what else depends on its bytes."""

    reader: str
    path: Path
    read: Callable[[], object]
    mend: Callable[[], None] = lambda: None


def run_mutants(seed: int, count: int, folder: Path) -> list[Outcome]:
    """Give ``count`` mutants, dealt out evenly, to the readers, and return what came of each.

    Args:
        seed: of the mutants; the same seed makes the same ones.
        count: how many.
        folder: an empty folder for the originals.
    """
    draw, outcomes = Draw(seed), []
    with _quiet():
        targets = make_targets(folder)
        contents = {target.reader: target.path.read_bytes() for target in targets}
        for target in targets:
            target.read()
        for number in range(count):
            target = targets[number % len(targets)]
            kind, content = mutate(contents[target.reader], draw)
            target.path.write_bytes(content)
            target.mend()
            outcomes.append(_outcome(target, kind))
            target.path.write_bytes(contents[target.reader])
            target.mend()
    return outcomes


# ------------------------------------------------------------------------------------------------- originals


def make_targets(folder: Path) -> list[Target]:
    """Write one original of every kind below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    return [*_configs(folder), *_run_files(folder), *_bundles(folder), *_data(folder)]


def _configs(folder: Path) -> Iterator[Target]:
    config, setting, answer = folder / "config.yaml", folder / "setting", folder / "answer"
    config.write_text(RunConfig(method_options={"lr": 0.1}, task_options={"words": {"a": "good"}}).to_yaml())
    setting.write_text("task.words={positive: great, negative: [1, 2.5, true, ~], other: {deep: 'x'}}")
    answer.write_text(OracleAnswer((-0.5, -1.5), "text", ("a", "b"), 3, 4).to_json())
    yield Target("config", config, lambda: build_config(read_yaml(config)))
    yield Target("--set", setting, lambda: build_config(parse_settings([os.fsdecode(setting.read_bytes())])))
    yield Target("oracle answer", answer, lambda: _answer(answer.read_bytes()))


def _answer(content: bytes) -> object:
    try:
        return OracleAnswer.from_json(content.decode(errors="replace"))
    except (ValueError, TypeError, KeyError):  # what the cache drops and asks for anew
        return None


def _run_files(folder: Path) -> Iterator[Target]:
    run = RunDirectory.create(folder / "run", RunConfig(), label="")
    state = PromptState({"ctx": torch.randn(4, 8), "ids": torch.arange(5)})
    update = Update(0, state, samples=8, loss=0.5, accuracy=0.5)
    reply = Reply(0, 2, update, state, seconds=1.0, usage=Usage())
    whole = FederationState(round=1, shared=state, server=state, personal={0: state, 1: state}, pending=(reply,))
    run.events.write("run_start", method="promptfl", seed=0)
    run.events.write("client", stage="promptfl", round=1, client=0, loss=0.5, accuracy=0.25, samples=8, failure="")
    saved = save_checkpoint(run.stage_folder("promptfl", is_baseline=False), whole, events_bytes=run.events.size())
    figures = {"local": 0.5, "base": 0.25, "new": None, "hm": None, "domains": {}}
    run.write_metrics({"method": figures, "zero_shot": figures, "held_out": ["a"], "cost": {"bytes_up": 3}})
    run.write_json("partition.json", {"clients": [{"name": "c", "classes": ["a", "b"], "train": [3, 4]}]})
    about, blob = saved / "checkpoint.json", saved / "state.safetensors"

    def sign() -> None:
        _seal(about, sha256=hashlib.sha256(blob.read_bytes()).hexdigest())

    def load() -> object:
        return load_checkpoint(saved.parent)

    yield Target("checkpoint.json", about, load, lambda: _seal(about))
    yield Target("state.safetensors", blob, load, sign)
    yield Target("events.jsonl", run.path / "events.jsonl", run.events.read)
    metrics, partition = run.path / "metrics.json", run.path / "partition.json"
    yield Target("metrics.json", metrics, lambda: (run.read_metrics(), run_summary(run.path)), lambda: _seal(metrics))
    yield Target("partition.json", partition, lambda: run.read_json("partition.json"), lambda: _seal(partition))
    yield Target("config.yaml of a run", run.path / "config.yaml", lambda: RunDirectory.open(run.path))
    origin = TuningOrigin(round=1, prompt_sha256="0" * 64, method="finetune", space="prompt", alphas=(0.0, 1.0))
    four = {"val": (0.5, 0.5), "local": (0.5, 0.5), "base": (0.5, 0.5), "new": (0.5, 0.5)}
    save_client(run.path, SavedClient(client=0, name="c", alpha=1.0, why="best", origin=origin, **four), state)
    sheet, tuned = (run.path / "personalized" / f"client-0.{ending}" for ending in ("json", "safetensors"))

    def sign_tuned() -> None:
        _seal(sheet, tuned_sha256=hashlib.sha256(tuned.read_bytes()).hexdigest())

    yield Target("personalized JSON", sheet, lambda: load_client(run.path, 0), lambda: _seal(sheet))
    yield Target("personalized tensors", tuned, lambda: load_client(run.path, 0), sign_tuned)


def _seal(path: Path, **values: str) -> None:
    """Put the checksum in ``path`` right, and some other ``values``, where it still holds a JSON object with one."""
    try:
        content = json.loads(path.read_bytes())
        if SEAL in content:
            path.write_bytes(sealed_json({**{k: v for k, v in content.items() if k != SEAL}, **values}))
        elif values:
            path.write_text(json.dumps({**content, **values}))
    except (ValueError, TypeError, RecursionError):
        return


def _bundles(folder: Path) -> Iterator[Target]:
    common = {
        "format_version": 1, "promptfed_version": "0.1", "method_options": {}, "classes": ["cat", "dog"],
        "templates": ["a {}"], "rounds": 1, "seed": 0, "client": 0, "client_name": "c",
    }  # fmt: skip
    backbone = {"name": "tiny", "fingerprint": "f" * 64, "text_dim": 8, "embed_dim": 4, "precision": "float32"}
    unit = torch.eye(4)[:2].contiguous()
    prompt = save({"shared/ctx": torch.randn(4, 8)})
    features = save({"features": unit, "logit_scale": torch.tensor(10.0)})
    vision = {"prompt.safetensors": prompt, "class_text_features.safetensors": features}
    about = {**common, "method": "promptfl", "backbone": backbone, "logit_scale": 10.0}
    yield from _bundle(folder / "vision", "vision", vision, about)
    texts = {"prompt.safetensors": prompt, "prompt.txt": b"Say it.", "soft_prompt.safetensors": save({"soft": unit})}
    oracle = {"name": "minilm", "fingerprint": "f" * 64, "precision": "float32", "options": {}}
    about = {**common, "method": "fedbpt", "oracle": oracle, "form": {}, "examples": "texts", "complete": True}
    yield from _bundle(folder / "black", "black-box", texts, about)


def _bundle(home: Path, kind: str, files: dict[str, bytes], about: dict[str, Any]) -> Iterator[Target]:
    home.mkdir()
    for name, content in files.items():
        (home / name).write_bytes(content)
    config = home / "promptfed_config.json"

    def sign() -> None:
        digests = {name: hashlib.sha256((home / name).read_bytes()).hexdigest() for name in files}
        config.write_text(json.dumps({**about, "sha256": digests}))

    sign()
    yield Target(f"{kind} bundle: config", config, lambda: read_bundle(home))
    for name in files:
        yield Target(f"{kind} bundle: {name}", home / name, lambda: read_bundle(home), sign)


def _data(folder: Path) -> Iterator[Target]:
    texts: dict[str, tuple[str, Callable[[Path], object]]] = {
        "texts.tsv": ("text\tlabel\na good day\tpos\nbad\tneg\n", lambda path: list(tsv_rows(path))),
        "texts.jsonl": ('{"text": "good", "label": 1}\n{"text": "b"}\n', lambda path: list(jsonl_rows(path))),
        "images.csv": ("path,label,client\na.png,cat,one\nb.png,dog,two\n", read_rows),
        "split.json": (json.dumps({"train": [["a.jpg", 0, "cat"]], "val": [], "test": []}), read_split),
        "classes.csv": ("folder,name,description\nn1,cat,a cat\nn2,dog,\n", lambda path: read_class_table(path.parent)),
    }
    for name, (text, read) in texts.items():
        path = folder / name
        path.write_text(text)
        yield Target(name, path, lambda path=path, read=read: read(path))
    parameters = ContextGenerator(8, 8).start(torch.Generator().manual_seed(3))
    for name, is_zip in (("fedtpg.pt", True), ("fedtpg_old.pt", False)):
        path = folder / name
        torch.save({"state_dict": parameters, "epoch": 5}, path, _use_new_zipfile_serialization=is_zip)
        yield Target(name, path, lambda path=path: read_released(path))
    picture = Image.effect_noise((24, 16), 60)
    for ending in ("png", "jpg", "gif", "bmp", "tif", "webp"):
        path, buffer = folder / f"image.{ending}", io.BytesIO()
        picture.save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(ending, ending))
        path.write_bytes(buffer.getvalue())
        yield Target(path.name, path, lambda path=path: FileItem(path).load())


# --------------------------------------------------------------------------------------------------- mutants

HOSTILE = (
    b"9" * 5000, b"1e999", b"-1", b"NaN", b"null", b"[" * 3000, b'{"a":' * 3000, b"\x00", b"\xff", b"\\ud800",
    b"\\u0000", b'"a": 1, "a": 1,', b"[]", b"{}", b"true", b"18446744073709551616", b"&a [*a]", b"!!binary x",
    b"../../x", b"F8_E4M3", b"a" * 100_000,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**18, 2**63, 10**400, 0.5, 1e308, -1e308, float("nan"), float("inf"), "", "\0", "\ud800",
    "x" * 10_000, [], {}, [[]], ["a"], {"a": 1}, [None] * 1000,
)  # fmt: skip


def mutate(content: bytes, draw: Draw) -> tuple[str, bytes]:
    """One change to ``content``: to its bytes, or to a value where it is JSON or begins with a header of JSON."""
    start, value = _json_in(content)
    if value is not None and draw.random() < 0.6:
        text = json.dumps(_changed(value, draw)).encode()
        if start is None:
            return "value", text
        return "value of the header", len(text).to_bytes(8, "little") + text + content[start:]
    return draw.choice(BYTE_CHANGES)(content, draw)


def _json_in(content: bytes) -> tuple[int | None, Any]:
    """(where the header of a safetensors file ends, or None; the JSON value, or None)."""
    try:
        return None, json.loads(content)
    except (ValueError, RecursionError):
        pass
    length = int.from_bytes(content[:8], "little")
    try:
        return 8 + length, json.loads(content[8 : 8 + length])
    except (ValueError, RecursionError):
        return None, None


def _changed(value: Any, draw: Draw) -> Any:
    """``value`` with one part replaced, removed, renamed or nested deep."""
    whole = [value]
    places: list[tuple[Any, Any]] = [(whole, 0)]
    for holder, key in places:
        part = holder[key]
        if isinstance(part, dict | list) and len(places) < 5000:
            places += [(part, name) for name in (part if isinstance(part, dict) else range(len(part)))]
    holder, key = draw.choice(places)
    action = draw.randrange(5)
    if action == 0 and isinstance(holder, dict):
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder[draw.choice(["", "x", "\0", "__metadata__", "sha256", "more" * 200])] = holder.pop(key)
    elif action == 2:
        for _ in range(draw.choice([1, 70, 500])):
            holder[key] = [holder[key]]
    else:
        holder[key] = draw.choice(VALUES)
    return whole[0]


def _flip(content: bytes, draw: Draw) -> tuple[str, bytes]:
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 8])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return "flipped bits", bytes(changed)


def _cut(content: bytes, draw: Draw) -> tuple[str, bytes]:
    return "cut off", content[: draw.randrange(len(content))]


def _drop(content: bytes, draw: Draw) -> tuple[str, bytes]:
    start, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return "a part removed", content[:start] + content[end:]


def _double(content: bytes, draw: Draw) -> tuple[str, bytes]:
    start, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return "a part doubled", content[:end] + content[start:end] * draw.choice([1, 50]) + content[end:]


def _insert(content: bytes, draw: Draw) -> tuple[str, bytes]:
    place, what = draw.randrange(len(content) + 1), draw.choice(HOSTILE)
    return "text put in", content[:place] + what + content[place + draw.choice([0, len(what), 3]) :]


def _noise(content: bytes, draw: Draw) -> tuple[str, bytes]:
    place = draw.randrange(len(content) + 1)
    return "noise put in", content[:place] + draw.randbytes(draw.choice([1, 4, 300])) + content[place:]


BYTE_CHANGES = (_flip, _flip, _cut, _drop, _double, _insert, _insert, _noise)


# -------------------------------------------------------------------------------------------------- outcomes


def _outcome(target: Target, kind: str) -> Outcome:
    fault = f"{target.reader}: {kind}"
    before, start = _peak(), time.monotonic()
    try:
        with alarm(3 * LONGEST):
            target.read()
        result, detail = "accepted", ""
    except PromptFedError as error:
        result, detail = "refused", str(error)
        if "\n" in detail:
            result = "traceback"
    except TimeoutError:
        return Outcome(SUITE, fault, "hang")
    except Exception as error:  # what a user would see as a traceback
        result, detail = "traceback", f"{type(error).__name__}: {str(error)[:300]}"
    if time.monotonic() - start > LONGEST:
        result = "hang"
    elif _peak() - before > MOST_MEMORY:
        result = "memory"
    return Outcome(SUITE, fault, result, detail)  # type: ignore[arg-type]


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raise TimeoutError inside after so many seconds."""

    def late(*_: object) -> None:
        raise TimeoutError

    earlier = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("promptfed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
