"""Mutants of the messages between the server and the sites of a deployment, both ways, on a grid in this process.

Each mutant is one message of a true run in which one thing is changed: a field of its words, its text, an array, a
record. The other two sites stay honest. What must hold: the message is refused in one line or does no harm, nobody
gets a traceback, the others go on, and nothing takes longer than a few seconds.
"""

from __future__ import annotations

import importlib.util
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from PIL import Image

from faults.outcomes import Outcome, Result
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureStore
from promptfed.backbones.text_tower_cache import load_text_tower
from promptfed.config import build_config
from promptfed.deployment import codec, messages
from promptfed.deployment import site_model as model_module
from promptfed.deployment.engine import FlowerEngine
from promptfed.deployment.evaluator import SiteEvaluator
from promptfed.deployment.messages import Hello
from promptfed.deployment.server import _agree, _prepare, _without_data, checked
from promptfed.deployment.site import Site, SiteOptions
from promptfed.deployment.site_pool import SitePool
from promptfed.errors import PromptFedError
from promptfed.experiment import Experiment
from promptfed.printable import printable
from promptfed.tasks import TASKS

GRID = Path(__file__).parents[2] / "tests" / "deployment" / "fake_grid.py"
LIAR, NODE = 1, 200
KINDS = ("Hello", "Prepare", "Train", "Evaluate", "Finish")
SLOW, HUNG = 5.0, 60.0
"""Seconds of work, and of the clock: other programs may keep the machine busy."""
REFUSED, HARMLESS = "refused in one line", "accepted without harm"
TRACEBACK, HARM = "traceback", "harm to others"

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 10**12, 10**18, 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "x", "s0", "client 0",
    "x" * 65, "x" * 1_001, "x" * 1_000_000, "\x1b[2J\x1b]0;owned\x07", r"$\bad$", "[/b]", "\u202egnp", "a\x00b",
    "\ud800", "../../etc/passwd", "{0.__class__}", [], {}, [1] * 20_000, ["x"] * 20_000, {"a": 1}, [[[[]]]],
    "NaN", "熊猫",
)  # fmt: skip


@dataclass
class Stage:
    """A small federation of three sites that was run once, its messages kept to be changed."""

    grid: Any
    sites: list[Site]
    agreement: messages.SiteAgreement
    experiment: Experiment
    hello: Hello
    questions: dict[str, RecordDict]
    answers: dict[int, dict[str, RecordDict]]
    state: Any

    def federation(self, engine: FlowerEngine | None = None) -> Any:
        return self.experiment.federation(engine=engine)


def run_message_mutants(seed: int = 0, count: int = 800) -> Iterator[Outcome]:
    """Try ``count`` mutants, half of them answers to the server and half questions to a site.

    A mutant that is accepted, since all its fields are what they may be, counts as "accepted" if the others went
    on as before: what a site says of itself within these bounds is its own affair.
    """
    with tempfile.TemporaryDirectory() as folder:
        stage = _prepared(Path(folder))
        for number in range(count):
            stream = random.Random(f"{seed}-{number}")
            kind = KINDS[(number // 2) % len(KINDS)]
            act, whom = (_to_server, "the server") if number % 2 == 0 else (_to_site, "a site")
            result, detail = _tried(lambda act=act, kind=kind, stream=stream: act(stage, kind, stream))
            yield Outcome(f"messages to {whom}", f"{kind}, mutant {seed}-{number}", result, detail)


def _tried(act: Callable[[], str]) -> tuple[Result, str]:
    began, worked = time.monotonic(), time.process_time()
    try:
        said = act()
    except PromptFedError as error:
        return "lost", f"the server's run ended: {printable(error, 200)}"
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {printable(error, 200)}"
    if time.process_time() - worked > SLOW or time.monotonic() - began > HUNG:
        return "hang", said
    results: dict[str, Result] = {REFUSED: "refused", HARMLESS: "accepted"}
    return results.get(said, "traceback" if said.startswith(TRACEBACK) else "lost"), said


# ------------------------------------------------------------------------------------------------ two directions


def _to_server(stage: Stage, kind: str, stream: random.Random) -> str:
    """One site's answer is changed; the server goes through the step in which it comes."""
    changed = mutant(stage.answers[LIAR][kind], stream)
    said: list[str] = []
    stage.grid.nodes = {
        (client + 1) * 100: _replay(own, {kind: changed} if client == LIAR else {})
        for client, own in stage.answers.items()
    }
    sites = SitePool(stage.grid, stage.hello, patience=0.0, poll=0.0, say=said.append)
    sites.gather(3, 0.0)
    honest = {site.name for k, site in enumerate(stage.agreement.sites) if k != LIAR}
    if not honest <= set(sites.connected):
        return f"{HARM}: {said}"
    if kind == "Hello":
        return REFUSED if len(sites.connected) == 2 else HARMLESS
    sites.agree([site.name for site in stage.agreement.sites])
    engine = FlowerEngine(sites, stage.agreement, wait_seconds=0.0)
    evaluator = SiteEvaluator(sites, stage.agreement)
    federation = stage.federation(engine)
    if kind == "Prepare":
        with _quiet() as lines:
            _prepare(sites, stage.agreement, 5.0)
        return REFUSED if any("could not prepare" in line for line in lines) else HARMLESS
    if kind == "Train":
        state, replies = federation.run_round(federation.start())
        if [r.client for r in replies if r.client != LIAR and r.failure] or not state.shared.is_finite():
            return f"{HARM}: {[r.failure for r in replies]}"
        return REFUSED if any(r.failure for r in replies) else HARMLESS
    if kind == "Evaluate":
        figures = evaluator.evaluate(federation, stage.state).figures
        shares = [figures.local, figures.base, figures.new, *figures.domains.values()]
        values = [getattr(share, "accuracy", share) for share in shares]
        if not all(value is None or 0 <= value <= 1 for value in values):
            return f"{HARM}: {shares}"
        return REFUSED if any("not in the figures" in line for line in said) else HARMLESS
    where = evaluator.finish(federation, stage.state)
    if any(place.startswith("(") for client, place in where.items() if client != LIAR):
        return f"{HARM}: {where}"
    return REFUSED if where[LIAR].startswith("(") else HARMLESS


def _to_site(stage: Stage, kind: str, stream: random.Random) -> str:
    """The server's question is changed; the site answers it, or says in one line why not."""
    answer = stage.sites[LIAR].answer(mutant(stage.questions[kind], stream))
    if codec.kind_of(answer) != "ErrorReply":
        return HARMLESS
    try:
        codec.unpack(answer, messages.PrepareAnswer)
    except PromptFedError as problem:
        line = str(problem)
        if "(the site's log has more)" in line:
            return f"{TRACEBACK} at the site: {line[:150]}"
        return REFUSED if line == printable(line) and len(line) <= 1_000 else f"{HARM}: {line[:100]}"
    return f"{HARM}: a Problem that is none"


def _replay(answers: dict[str, RecordDict], changed: dict[str, RecordDict]) -> Callable[[RecordDict], RecordDict]:
    return lambda question: {**answers, **changed}[codec.kind_of(question)]


@contextmanager
def _quiet() -> Iterator[list[str]]:
    from promptfed.deployment import server

    lines: list[str] = []
    before, server.say = server.say, lines.append
    try:
        yield lines
    finally:
        server.say = before


# ------------------------------------------------------------------------------------------------------ mutants


def mutant(content: RecordDict, stream: random.Random) -> RecordDict:
    """``content`` with one thing changed."""
    records: dict[str, Any] = {codec.ABOUT: content[codec.ABOUT], codec.ARRAYS: content[codec.ARRAYS]}
    way = stream.choice(["field"] * 8 + ["text", "array", "array", "record"])
    if way == "array" and not len(records[codec.ARRAYS]):
        way = "field"
    if way == "field":
        about = json.loads(str(content[codec.ABOUT][codec.JSON]))
        _change_field(about, stream)
        records[codec.ABOUT] = ConfigRecord({codec.JSON: json.dumps(about)})
    elif way == "text":
        records[codec.ABOUT] = ConfigRecord({codec.JSON: _change_text(str(content[codec.ABOUT][codec.JSON]), stream)})
    elif way == "array":
        records[codec.ARRAYS] = _change_arrays(records[codec.ARRAYS], stream)
    else:
        _change_records(records, stream)
    return RecordDict(records)


def _change_field(about: dict[str, Any], stream: random.Random) -> None:
    places = [place for place in _places(about) if place[0] is not about or place[1] == "started"]
    holder, key = stream.choice(places)
    act = stream.choice(["replace"] * 6 + ["drop", "repeat"])
    if act == "replace":
        holder[key] = stream.choice(HOSTILE)
    elif act == "drop":
        del holder[key]
    elif isinstance(holder, dict):
        holder[f"{key} too"] = holder[key]
    else:
        holder.extend([holder[key]] * stream.choice([1, 100, 20_000]))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _change_text(text: str, stream: random.Random) -> str:
    at = stream.randrange(len(text))
    return stream.choice([
        text[:at], text[:at] + "\x00" + text[at:], text[:at] + '"' + text[at:], "[" * 100_000, "9" * 5_000,
        '{"kind": ' * 5_000, text.replace(":", ": NaN, ", 1), text + text, "", "null", "x" * 17_000_000,
    ])  # fmt: skip


def _change_arrays(arrays: ArrayRecord, stream: random.Random) -> ArrayRecord:
    found = dict(arrays.items())
    name = stream.choice(sorted(found))
    array = found[name]
    shape, data = tuple(array.shape), array.data
    ways: list[Callable[[], dict[str, Array]]] = [
        lambda: {},
        lambda: {f"{name}x": array},
        lambda: {name: array, "shared/more": array},
        lambda: {name: Array("float32", shape, "numpy.ndarray", b"\x80\x04K\x01.")},
        lambda: {name: Array("float32", (10**6, 10**6), "numpy.ndarray", data)},
        lambda: {name: Array("float32", shape, "numpy.ndarray", data[: len(data) // 2])},
        lambda: {name: Array("float64", shape, "numpy.ndarray", data)},
        lambda: {name: Array(np.zeros(shape, np.float64))},
        lambda: {name: Array(np.full(shape, np.nan, np.float32))},
        lambda: {name: Array(np.full(shape, 1e38, np.float32))},
        lambda: {name: Array(np.zeros((1, *shape), np.float32))},
        lambda: {name: Array(np.zeros((), np.float32))},
        lambda: {name: Array(np.zeros((0, 4), np.float32))},
        lambda: {name: Array(np.zeros(shape, np.int64))},
        lambda: {name: array, **{f"shared/{n}": Array(np.zeros(1, np.float32)) for n in range(2_000)}},
    ]
    del found[name]
    return ArrayRecord({**found, **stream.choice(ways)()})


def _change_records(records: dict[str, Any], stream: random.Random) -> None:
    act = stream.randrange(5)
    if act == 0:
        del records[stream.choice(sorted(records))]
    elif act == 1:
        records["x" * 10_000] = ConfigRecord({"a": 1})
    elif act == 2:
        records[codec.ABOUT] = ConfigRecord({codec.JSON: 5})
    elif act == 3:
        records[codec.ABOUT] = ConfigRecord({"other": "{}"})
    else:
        records[codec.ARRAYS], records[codec.ABOUT] = records[codec.ABOUT], records[codec.ARRAYS]


# -------------------------------------------------------------------------------------------------- the true run


def _prepared(folder: Path) -> Stage:
    pictures = folder / "pictures"
    for k, name in enumerate(["ant", "bee", "cat", "dog", "eel", "fox"]):
        (pictures / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (16, 16), (40 * k, (90 * k + 11 * i) % 256, 255 - 40 * k)).save(
                pictures / name / f"{i}.png"
            )
    config = checked(build_config({
        "data": f"folder:{pictures}", "backbone": "tiny", "clients": 3, "shots": 1, "rounds": 2, "baselines": [],
        "threads": 1, "task_options": {"val_shots": 1}, "method_options": {"n_ctx": 2, "local_epochs": 1},
    }))  # fmt: skip
    spec = importlib.util.spec_from_file_location("fake_grid", GRID)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    grid, features = module.FakeGrid(), FeatureStore(load_text_tower(config.backbone))
    model_module.load_text_tower = lambda *args, **named: features.backbone  # the same weights for all, read once
    task = TASKS[config.task].build(config)
    sites = [Site(SiteOptions.of({"state-dir": str(folder / str(k)), "partition-id": k})) for k in range(3)]
    answers: dict[int, dict[str, RecordDict]] = {0: {}, 1: {}, 2: {}}
    questions: dict[str, RecordDict] = {}

    def recorded(client: int) -> Callable[[RecordDict], RecordDict]:
        def answer(question: RecordDict) -> RecordDict:
            kind = codec.kind_of(question)
            answers[client][kind] = sites[client].answer(question)
            if client == LIAR:
                questions[kind] = question
            return answers[client][kind]

        return answer

    grid.nodes = {(k + 1) * 100: recorded(k) for k in range(3)}
    hello = Hello.create(
        run="0" * 32, simulated=True, config=config.model_dump(mode="json"), classes=None,
        fingerprint=features.backbone.fingerprint, promptfed=version("promptfed"),
    )  # fmt: skip
    federated = SitePool(grid, hello, patience=0.0, poll=0.0, say=lambda line: None)
    federated.gather(3, 60)
    with _quiet():
        agreement = _agree(hello, config, federated, task, None)  # type: ignore[arg-type]
        federated.agree([site.name for site in agreement.sites])
        experiment = Experiment.build(config, model_for=lambda _: DualEncoder(features), task=_without_data(task))
        _prepare(federated, agreement, 60)
    federation = experiment.federation(engine=FlowerEngine(federated, agreement, wait_seconds=1.0))
    state, _ = federation.run_round(federation.start())
    evaluator = SiteEvaluator(federated, agreement)
    evaluator.evaluate(federation, state)
    evaluator.finish(federation, state)
    return Stage(grid, sites, agreement, experiment, hello, questions, answers, state)
