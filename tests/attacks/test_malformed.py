"""Every reader takes a malformed file or message, or refuses it: in one line of a PromptFedError, at once."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.mutants import _seal, alarm, make_targets
from safetensors.torch import save

from promptfed.attacks.malformed import (
    Mutant,
    RawArray,
    RawMessage,
    json_files,
    messages,
    random_changes,
    updates,
    yaml_files,
)
from promptfed.attacks.malformed_tensors import tensor_files, torch_files
from promptfed.config import RunConfig
from promptfed.deployment.messages import SiteAgreement, Train
from promptfed.deployment.site_store import SiteStore
from promptfed.errors import PromptFedError
from promptfed.peft_format.reading import read_adapter
from promptfed.printable import is_printable
from promptfed.prompt_state import PromptState
from promptfed.readers.torch_files import read_torch
from promptfed.runs.client_rows import ClientRows
from promptfed.runs.directory import RunDirectory
from promptfed.runs.passport import check_passport, write_passport
from promptfed.runs.personal_store import PersonalStore
from promptfed.screening import Expected, check_update
from promptfed.types import NO_PROMPT, Reply, Update
from promptfed.usage import Usage
from promptfed.warm_start import first_prompt

LONGEST = 5.0
"""Seconds of processor time for one mutant: more is a hang, also on a busy machine."""
EVERY = 9
"""The fast tests take one mutant of so many."""
TENSORS = {"ctx": torch.randn(4, 8), "ids": torch.arange(5)}
Q = "base_model.model.model.layers.0.self_attn.q_proj"
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
FACTORS = {f"{Q}.lora_A.weight": torch.ones(2, 5), f"{Q}.lora_B.weight": torch.ones(3, 2)}


@dataclass(frozen=True)
class Door:
    """A reader with the file that it reads. ``mend`` puts right the checksums of whatever stands in the file."""

    path: Path
    read: Callable[[], object]
    mutants: Callable[[int, int], Iterable[Mutant]]
    mend: Callable[[], None] = lambda: None


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where the system has one: thousands of files are written to it."""
    memory = Path("/dev/shm")
    is_there = memory.is_dir() and os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(dir=memory if is_there else tmp_path_factory.mktemp("malformed")) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def doors(files: Path) -> dict[str, Door]:
    return {**_usual_doors(files / "usual"), **_other_doors(files / "other")}


def _usual_doors(folder: Path) -> dict[str, Door]:
    doors = {}
    for target in make_targets(folder):
        original = target.path.read_bytes()
        made: Callable[[int, int], Iterable[Mutant]]
        if target.path.suffix == ".safetensors":
            tensors = {"features": torch.eye(4)[:2], "logit_scale": torch.tensor(10.0)}
            if target.path.name.startswith("prompt"):
                tensors = {"shared/ctx": TENSORS["ctx"]}
            elif "state" in target.path.name:
                tensors = {"shared/ctx": TENSORS["ctx"], "shared/ids": TENSORS["ids"]}
            made = lambda seed, count, tensors=tensors: tensor_files(tensors, {"about": "x"}, seed, count)  # noqa: E731
        elif target.reader in ("config", "config.yaml of a run"):
            made = lambda seed, count, original=original: yaml_files(original.decode(), seed, count)  # noqa: E731
        elif (original.startswith(b"{") and target.path.suffix == ".json") or target.reader == "oracle answer":
            made = lambda seed, count, original=original: json_files(original, seed, count)  # noqa: E731
        else:
            made = lambda seed, count, original=original: random_changes(original, seed, "other", count)  # noqa: E731
        doors[target.reader] = Door(target.path, target.read, made, target.mend)
    return doors


def _other_doors(folder: Path) -> dict[str, Door]:
    adapter, older = folder / "adapter", folder / "older"
    for home in (adapter, older):
        home.mkdir(parents=True)
        (home / "adapter_config.json").write_text(json.dumps(LORA))
    (adapter / "adapter_model.safetensors").write_bytes(save(FACTORS))
    torch.save(FACTORS, older / "adapter_model.bin")
    torch.save(TENSORS, folder / "any.pt")
    state = PromptState(TENSORS)
    state.save(folder / "prompt.safetensors")
    store = PersonalStore(folder / "personal")
    store.write(0, 1, state)
    rows = ClientRows.of(2, [({"client": 0, "name": "c", "domain": "", "train": [1, 2], "val": [0, 1], "test": [1, 1]},
                              "00" * 32)])  # fmt: skip
    about = rows.save(folder)
    config = json.dumps(LORA).encode()
    run = RunDirectory.create(folder / "run", RunConfig(), label="")
    run.events.write("run_start")
    run.write_metrics({"method": {}})
    run.write_json("partition.json", {"clients": []})
    write_passport(run, {"clients": []}, "0" * 32, is_finished=True)
    passport, site = run.path / "run.json", SiteStore(folder / "site", "0" * 32)
    about_run = passport.read_bytes()
    agreement = SiteAgreement(
        run="0" * 32, simulated=False, config={}, base_classes=("cat", "dog"), templates=("a {}",), sites=(),
        fingerprint="f" * 64,
    )  # fmt: skip
    site.sent(Train(agreement=agreement, stage="promptfl", client=1, round=1, start=0), state)
    agreed, sent = site.folder / "agreement.json", site.folder / "promptfl" / "sent.safetensors"
    about_site = agreed.read_bytes()
    return {
        "adapter: config": Door(
            adapter / "adapter_config.json", lambda: read_adapter(adapter), lambda s, n: json_files(config, s, n)
        ),
        "adapter: tensors": Door(
            adapter / "adapter_model.safetensors",
            lambda: read_adapter(adapter),
            lambda s, n: tensor_files(FACTORS, {}, s, n),
        ),
        "adapter: as a start": Door(
            adapter / "adapter_model.safetensors",
            lambda: first_prompt(adapter),
            lambda s, n: tensor_files(FACTORS, {}, s + 1, n),
        ),
        "adapter: older tensors": Door(
            older / "adapter_model.bin", lambda: read_adapter(older), lambda s, n: torch_files(FACTORS, "", s, n)
        ),
        "a file of torch": Door(
            folder / "any.pt",
            lambda: read_torch(folder / "any.pt", 10**8),
            lambda s, n: torch_files(TENSORS, "state_dict", s, n),
        ),
        "a prompt": Door(
            folder / "prompt.safetensors",
            lambda: PromptState.load(folder / "prompt.safetensors"),
            lambda s, n: tensor_files(TENSORS, {}, s, n),
        ),
        "a personal prompt": Door(
            folder / "personal" / "client-00000" / "round-0001.safetensors",
            lambda: store.read(0, 1),
            lambda s, n: tensor_files(TENSORS, {"sha256": state.sha256()}, s, n),
        ),
        "run.json": Door(
            passport, lambda: check_passport(run), lambda s, n: json_files(about_run, s, n), lambda: _seal(passport)
        ),
        "a site's agreement": Door(
            agreed, site.agreement, lambda s, n: json_files(about_site, s, n), lambda: _seal(agreed)
        ),
        "what a site was sent": Door(
            sent,
            lambda: site.last_sent("promptfl"),
            lambda s, n: tensor_files({"shared/ctx": TENSORS["ctx"]}, {"sha256": "0" * 64}, s, n),
        ),
        "rows of clients": Door(
            folder / "clients.safetensors",
            lambda: list(ClientRows.open(folder, about, 2)),
            lambda s, n: tensor_files({"client": torch.zeros(1, dtype=torch.int32)}, about, s, n),
        ),
    }


READERS = [
    "config", "--set", "oracle answer", "checkpoint.json", "state.safetensors", "events.jsonl", "metrics.json",
    "partition.json", "config.yaml of a run", "personalized JSON", "personalized tensors", "vision bundle: config",
    "vision bundle: prompt.safetensors", "vision bundle: class_text_features.safetensors", "black-box bundle: config",
    "black-box bundle: prompt.safetensors", "black-box bundle: prompt.txt",
    "black-box bundle: soft_prompt.safetensors", "fedtpg.pt", "fedtpg_old.pt", "split.json", "adapter: config",
    "adapter: tensors", "adapter: as a start", "adapter: older tensors", "a file of torch", "a prompt",
    "a personal prompt", "rows of clients", "run.json", "a site's agreement", "what a site was sent",
]  # fmt: skip


def judged(read: Callable[[], object]) -> str:
    """Return "accepted" or "refused", else what is wrong with how ``read`` ended."""
    start = time.process_time()
    try:
        with alarm(20):
            read()
        result = "accepted"
    except PromptFedError as error:
        line = str(error)
        result = "refused" if line and is_printable(line) and len(line) < 5_000 else f"a message {line[:200]!r}"
    except Exception as error:
        result = f"{type(error).__name__}: {str(error)[:200]}"
    seconds = time.process_time() - start
    return result if seconds < LONGEST else f"{result} after {seconds:.1f} s"


def tried(door: Door, seed: int, count: int, every: int = 1) -> Counter[str]:
    """Give the mutants to the reader and count what came of them. Fails at those that are neither read nor refused."""
    original = door.path.read_bytes()
    counts, faults = Counter[str](), []
    try:
        for number, mutant in enumerate(door.mutants(seed, count)):
            if number % every:
                continue
            door.path.write_bytes(mutant.content)
            door.mend()
            result = judged(door.read)
            counts[result] += 1
            if result not in ("accepted", "refused"):
                faults.append(f"{mutant.kind}: {result}")
    finally:
        door.path.write_bytes(original)
        door.mend()
    assert faults == []
    return counts


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("promptfed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader != "adapter: older tensors"])
def test_some_malformed_files(doors: dict[str, Door], reader: str) -> None:
    doors[reader].read()
    counts = tried(doors[reader], 1, 40, EVERY)
    assert counts["refused"] > 0 or reader in ("oracle answer", "black-box bundle: prompt.txt")
    doors[reader].read()


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_all_malformed_files(doors: dict[str, Door], reader: str) -> None:
    assert tried(doors[reader], 2, 150).total() >= 75


@pytest.mark.slow
def test_thousands_are_made(doors: dict[str, Door]) -> None:
    assert set(READERS) <= set(doors)
    assert sum(1 for reader in READERS for _ in doors[reader].mutants(2, 150)) > 5_000


def test_the_same_seed_makes_the_same_mutants(doors: dict[str, Door]) -> None:
    for reader in ("config", "checkpoint.json", "a prompt", "events.jsonl"):
        first, again, other = (list(doors[reader].mutants(seed, 20)) for seed in (5, 5, 6))
        assert first == again != other


# ------------------------------------------------------------------------------------------------------ updates

SENT = PromptState({"ctx": torch.zeros(4, 8), "tokens": torch.tensor([1, 2], dtype=torch.int16)})
EXPECTED = Expected({"ctx": (4, 8), "tokens": (None,)}, SENT, samples=40, figures=("clip.clipped",))
GOOD = Reply(3, 1, Update(3, SENT, 12, 1.5, 0.25), NO_PROMPT, 0.1, Usage(text_encoder_calls=4))


def test_a_malformed_update_is_refused_or_bounded() -> None:
    counts = Counter[str]()
    for kind, reply in updates(GOOD):
        checked = check_update(reply, EXPECTED)
        assert is_printable(checked.failure), kind
        assert len(checked.failure) < 2_500, kind
        assert checked.update.shared.is_finite(), kind
        assert checked.personal.is_finite(), kind
        assert type(checked.update.samples) is int, kind
        assert 0 <= checked.update.samples <= 40, kind
        assert not checked.failure or not checked.update.shared, kind
        counts["refused" if checked.failure else "accepted"] += 1
    assert counts["refused"] > 350
    assert counts["accepted"] > 10  # minus zero, a denormal, numbers that a figure may have


# ----------------------------------------------------------------------------------------------------- messages


def _decoders() -> dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[Any], object]]]:
    """Return kind of message -> its words, its arrays, and what decodes it."""
    pytest.importorskip("flwr")
    from promptfed.deployment import codec
    from promptfed.deployment import messages as kinds
    from promptfed.deployment.engine import reply_of
    from promptfed.deployment.site_pool import SiteReply
    from promptfed.screening import most_bytes
    from promptfed.types import Broadcast, Job

    job = Job(3, Broadcast(1, SENT), most_bytes=most_bytes(EXPECTED.shapes))
    arrays = {f"shared/{name}": tensor.numpy() for name, tensor in SENT.items()}
    agreement = {
        "run": "0" * 32, "simulated": False, "config": {"method": "promptfl"}, "base_classes": ["cat", "dog"],
        "templates": ["a {}"], "sites": [{"name": "north"}, {"name": "south", "domain": "photo"}],
        "fingerprint": "f" * 64,
    }  # fmt: skip
    words: dict[str, dict[str, Any]] = {
        "TrainAnswer": {
            "client": 3, "round": 1, "samples": 12, "loss": 1.5, "accuracy": 0.5, "seconds": 0.1, "kept": 0,
            "usage": {"usd": 0.5}, "figures": {"clip.clipped": 0.5},
        },
        "HelloAnswer": {
            "site": {"name": "north", "domain": "photo"}, "client": None, "classes": ["cat", "dog"], "train": [3, 4],
            "val": [1, 1], "test": [2, 2], "promptfed": "0.2", "key": "0" * 32, "notes": ["one"],
        },
        "EvaluateAnswer": {
            "client": 3, "local": {"right": 1, "of": 2, "accuracy": 0.5},
            "local_all": {"right": 1, "of": 2, "accuracy": 0.5},
            "domains": {"photo": {"right": 1, "of": 2, "accuracy": 0.5}},
            "measures": {"nll": {"local_all": {"sums": [0.5], "examples": 2}}},
        },
        "Train": {"agreement": agreement, "stage": "promptfl", "client": 1, "round": 1, "start": 0},
        "FinishAnswer": {"client": 3, "bundle": "x"},
    }  # fmt: skip

    def train(content: Any) -> object:
        reply = reply_of(job, SiteReply(content, "", 1, 1))
        checked = check_update(reply, EXPECTED)
        if checked.failure:
            raise PromptFedError(checked.failure)
        assert checked.update.samples <= 40
        return checked

    decoders: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[Any], object]]] = {}
    for kind, fields in words.items():
        has_prompt = kind in ("TrainAnswer", "Train")
        about = {"kind": kind, "words": fields, "parts": {"shared": list(SENT)} if has_prompt else {}, "started": 0.5}
        model: Any = getattr(kinds, kind)
        read = train if kind == "TrainAnswer" else lambda content, model=model: codec.unpack(content, model)
        decoders[kind] = about, arrays if has_prompt else {}, read
    return decoders


def _record(message: RawMessage) -> Any:
    from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

    arrays = {name: Array(a.dtype, a.shape, a.stored_as, a.data) for name, a in message.arrays.items()}
    return RecordDict({"arrays": ArrayRecord(arrays), "about": ConfigRecord({"json": message.words})})


def _tried_messages(kind: str, seed: int, count: int, every: int) -> Counter[str]:
    words, arrays, read = _decoders()[kind]
    counts, faults = Counter[str](), []
    raw = {name: RawArray.of(values) for name, values in arrays.items()}
    assert judged(lambda: read(_record(RawMessage("", json.dumps(words), raw)))) == "accepted"
    for number, message in enumerate(messages(words, arrays, seed, count)):
        if number % every:
            continue
        content = _record(message)
        result = judged(lambda content=content: read(content))
        counts[result] += 1
        if result not in ("accepted", "refused"):
            faults.append(f"{message.kind}: {result}")
    assert faults == []
    return counts


KINDS = ["TrainAnswer", "HelloAnswer", "EvaluateAnswer", "Train", "FinishAnswer"]


@pytest.mark.parametrize("kind", KINDS)
def test_some_malformed_messages(kind: str) -> None:
    assert _tried_messages(kind, 1, 60, 3)["refused"] > 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_malformed_messages(kind: str) -> None:
    assert _tried_messages(kind, 2, 400, 1)["refused"] > 200
