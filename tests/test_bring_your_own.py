"""Data, models, oracles, methods and aggregators as Python objects: trained on, resumed, evaluated, exported."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import promptfed as pf
from promptfed.aggregators.mean import Mean
from promptfed.blackbox.oracle_factory import load_oracle
from promptfed.cli import main
from promptfed.engines.base import Worker
from promptfed.engines.local import LocalEngine
from promptfed.methods.promptfl import PromptFL
from promptfed.oracle_options import OracleOptions
from promptfed.progress import Progress
from promptfed.prompt_state import PromptState
from promptfed.prompt_template import PromptTemplate
from promptfed.tasks.blackbox_text import load_texts
from promptfed.tasks.sources import load_source
from promptfed.tasks.sources.icon_source import source as icons
from promptfed.tasks.sources.tables import Columns
from promptfed.types import Broadcast, ClientData, Job, Reply

pytestmark = pytest.mark.usefixtures("forgets_classes")
SMALL: dict[str, Any] = {
    "rounds": 1, "shots": 2, "clients": 2, "threads": 1, "progress": False,
    "task_options": {"val_shots": 1, "test_per_class": 2},
}  # fmt: skip
ONLY_METHOD: dict[str, Any] = {**SMALL, "baselines": ("zero_shot",)}
TEXTS = [(f"{what} number {k}", label) for k in range(8) for what, label in (("good", "yes"), ("bad", "no"))]


@pytest.fixture(scope="module")
def pictures() -> list[tuple[Any, str]]:
    """Eight icons of each of three classes."""
    every = icons("")
    return [
        (sample.item.load(), every.classes[label])  # type: ignore[attr-defined]
        for label in range(3)
        for sample in [s for s in every.samples if s.label == label][:8]
    ]


PLEASE_GIVE = r"is a Python object, .* promptfed.load_run\(path, \w+=\.\.\.\)"


class Halved(PromptFL):
    """Sends half of the way that PromptFL goes."""

    name = "Halved"

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        update, kept = super().split_update(trained, broadcast, data, personal)
        return 0.5 * update + 0.5 * broadcast.shared, kept


class Backwards(LocalEngine):
    """Hands the clients' work out from the last to the first, and keeps a list."""

    def __init__(self, order: list[int]) -> None:
        self.order = order

    def for_stage(self, worker: Worker, config: pf.RunConfig) -> Backwards:  # type: ignore[override]
        super().__init__(worker)
        return self

    def run_round(self, jobs: Sequence[Job], *rest: Any, **more: Any) -> list[Reply]:
        replies = []
        for job in sorted(jobs, key=lambda job: -job.client):
            replies += super().run_round([job], *rest, **more)
            self.order.append(job.client)
        return replies[::-1]


class Again(Mean):
    """The mean, again."""


def score(prompts: list[str], texts: list[str], labels: list[str]) -> np.ndarray:
    """A label fits a text that is good, or bad; a prompt that is longer makes it less sure."""
    fits = [[float(("good" in text) == (label == "yes")) for label in labels] for text in texts]
    return np.array([np.array(fits) / (1 + len(prompt)) for prompt in prompts])


@pytest.fixture(scope="module")
def run(pictures: list[tuple[Any, str]], tmp_path_factory: pytest.TempPathFactory) -> pf.Run:
    """One of everything that a white box takes."""
    folder = tmp_path_factory.mktemp("own") / "run"
    model = pf.load_backbone("tiny")
    return pf.train(Halved, pictures, model=model, aggregator=Again(Again.Config(longest=7)), folder=folder, **SMALL)


def test_a_run_says_what_it_was_given(run: pf.Run) -> None:
    config = run.config
    assert (config.data, config.method, config.aggregator) == ("object:list", "Halved", "Again")
    assert (config.backbone, config.partition) == ("object:tiny", "auto")
    assert config.aggregator_options["longest"] == 7
    assert set(config.objects) == {"data", "method", "model", "aggregator"}
    assert config.objects["model"].fingerprint == pf.load_backbone("tiny").fingerprint
    assert "halved on object:list" in repr(run).lower()
    assert run.metrics["method"]["base"] > 0
    assert "Halved" in run.report().read_text()


def test_names_and_objects_train_the_same_prompts(run: pf.Run, pictures: Any, tmp_path: Path) -> None:
    """The same pictures in a folder, and the same model by its name."""
    for k, (image, label) in enumerate(pictures):
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "data" / label / f"{k:03}.png")
    named = pf.train(
        Halved, f"folder:{tmp_path / 'data'}", backbone="tiny", aggregator="mean", folder=tmp_path / "run", **SMALL
    )
    assert named.metrics["prompt_sha256"] == run.metrics["prompt_sha256"]
    assert named.metrics["method"]["base"] == run.metrics["method"]["base"]


def test_loaded_without_its_objects_it_says_which_to_give(run: pf.Run, tmp_path: Path) -> None:
    loaded = pf.load_run(run.path)
    assert loaded.metrics == run.metrics
    for act in (loaded.resume, loaded.evaluate, loaded.personalize, loaded.export, loaded.prompt):
        with pytest.raises(
            pf.PromptFedError, match=r"is a Python object, .* promptfed.load_run\(path, \w+=\.\.\.\)"
        ) as said:
            act()
        assert "\n" not in str(said.value)


def test_the_command_line_says_so_in_a_line(run: pf.Run, capfd: pytest.CaptureFixture[str]) -> None:
    for words in (
        ("train", "--resume", run.path),
        ("eval", run.path),
        ("export", run.path, "--all"),
        ("personalize", run.path),
    ):
        with pytest.raises(SystemExit, match=r"^2$"):
            main([str(word) for word in words])
        lines = capfd.readouterr().err.strip().splitlines()
        assert "is a Python object" in lines[-1], words
        assert "Traceback" not in "\n".join(lines)


def test_with_them_all_goes_on(run: pf.Run, pictures: Any, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    given = {"data": pictures, "model": pf.load_backbone("tiny"), "method": Halved, "aggregator": Again}
    loaded = pf.load_run(copy, **given)
    assert loaded.evaluate(progress=False)["object:list"]["method"]["base"] == run.metrics["method"]["base"]
    assert len(loaded.personalize(epochs=1, alphas=[0, 1], progress=False)["clients"]) == 2
    bundle = loaded.export(0, path=tmp_path / "bundle")
    with pf.load(bundle, model=pf.load_backbone("tiny")) as found:
        assert set(found.classes) == {label for _, label in pictures}
    assert loaded.resume(rounds=2, progress=False).round == 2


def test_other_objects_are_not_those(run: pf.Run, pictures: Any) -> None:
    with pytest.raises(pf.PromptFedError, match=r"the data given to run .* another than it was made with"):
        pf.load_run(run.path, data=pictures[1:])
    with pytest.raises(pf.PromptFedError, match="made with its oracle by name"):
        pf.load_run(run.path, oracle=score)
    with pytest.raises(pf.PromptFedError, match="method 'Halved', and 'promptfl' was given"):
        pf.load_run(run.path, method=PromptFL)
    with pytest.raises(pf.PromptFedError, match="Python objects, not with names"):
        pf.load_run(run.path, data="icons")
    with pytest.raises(pf.PromptFedError, match="test goes with data, which is not given"):
        pf.load_run(run.path, test=pictures)
    with pytest.raises(pf.PromptFedError, match="Did you mean 'data'"):
        pf.load_run(run.path, dat=pictures)


class Notes(Progress):
    """Keeps the notes that it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def test_its_prompts_are_tried_on_other_objects(run: pf.Run, pictures: Any, caplog: pytest.LogCaptureFixture) -> None:
    others, notes = pictures[::2], Notes()
    found = run.evaluate(data=others, progress=False, partition="auto")
    assert list(found) == ["object:list", "object:list (other)"]
    assert not caplog.messages  # without a handler Python would print them
    assert run.evaluate(data=others, progress=notes, partition="auto") == found
    assert [line.partition(": no domains")[0] for line in notes.lines] == ["object:list (other): partition auto"]
    bare = pf.load_run(run.path, model=pf.load_backbone("tiny"))
    assert list(bare.evaluate(data={"a": others, "b": others}, progress=False)) == ["object:clients"]
    with pytest.raises(pf.PromptFedError, match="give class_names"):
        bare.evaluate(data=[(image, 0) for image, _ in others], progress=False)


def test_an_engine_of_the_users_does_the_work(run: pf.Run, pictures: Any, tmp_path: Path) -> None:
    order: list[int] = []
    given = {"data": pictures, "model": pf.load_backbone("tiny"), "method": Halved, "aggregator": Again}
    options = {**given, "aggregator_options": {"longest": 7}, **SMALL}
    own = pf.train(engine=Backwards(order), folder=tmp_path / "run", **options)
    assert order[-2:] == [1, 0]
    assert own.config.engine == "Backwards"
    assert own.metrics["prompt_sha256"] == run.metrics["prompt_sha256"]
    assert pf.load_run(own.path, **given).resume(2, engine="local", progress=False).round == 2


def test_each_client_brings_its_own(pictures: Any, tmp_path: Path) -> None:
    clients = {"north": pictures[::2], "south": {"train": pictures[1::4], "test": pictures[3::4]}}
    options = {name: value for name, value in ONLY_METHOD.items() if name != "clients"}
    run = pf.train("promptfl", clients, model="tiny", folder=tmp_path / "run", **options)
    table = run.folder.read_json("partition.json")
    assert table is not None
    assert [row["name"] for row in table["clients"]] == ["north", "south"]
    assert run.config.partition == "clients"
    with pytest.raises(pf.PromptFedError, match="says which client holds what"):
        pf.train("promptfl", clients, model="tiny", partition="iid", folder=tmp_path / "other", **options)
    with pytest.raises(pf.PromptFedError, match="clients=3, but the data name 2"):
        pf.train("promptfl", clients, model="tiny", folder=tmp_path / "other", **{**options, "clients": 3})
    with pytest.raises(pf.PromptFedError, match="needs data that name their clients"):
        pf.train("promptfl", partition="clients", folder=tmp_path / "other", **ONLY_METHOD)
    assert not (tmp_path / "other").exists()


def test_ten_lines_wrap_any_endpoint(tmp_path: Path) -> None:
    run = pf.train(data=TEXTS, oracle=score, folder=tmp_path / "run", **ONLY_METHOD)
    assert (run.config.task, run.config.method, run.config.oracle) == ("blackbox-text", "fedbdpl", "object:score")
    assert run.metrics["method"]["base"] == 1.0
    cost = run.metrics["cost"]
    assert cost["oracle_calls"] + cost["oracle_cache_hits"] == cost["oracle_queries"] > 0
    bundle = run.export(0, path=tmp_path / "bundle")
    with pytest.raises(pf.PromptFedError, match=r"promptfed.load\(path, oracle="):
        pf.load(bundle)
    with pf.load(bundle, oracle=score) as found:
        assert found.predict(["a good day"])[0].ranked[0][0] == "yes"
    with pytest.raises(pf.PromptFedError, match="does not fit oracle 'lambda'"):
        pf.load(bundle, oracle=lambda p, t, k: score(p, t, k))
    loaded = pf.load_run(run.path, data=TEXTS, oracle=score)
    assert loaded.evaluate(progress=False)["object:list"]["method"]["base"] == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": TEXTS}, "there is no file 'good number 0'"),
        ({"data": TEXTS, "oracle": 3}, "oracle is 3: give a name"),
        ({"data": TEXTS, "oracle": score, "method": "fedbpt"}, "needs an oracle with soft prompts"),
        ({"data": TEXTS, "oracle": score, "engine": "ray"}, "kept by one process"),
        ({"data": TEXTS, "oracle": lambda p, t, k: np.zeros((1, 1, 1))}, "returned scores of shape"),
        ({"task": "cot", "data": TEXTS}, "takes data by name only"),
        ({"data": "icons", "class_names": ["a", "b"]}, "class_names goes with data that are a Python object"),
        ({"method": 3}, "method is 3: give a name, or a class or instance of Method"),
        ({"aggregator": Halved}, "or a class or instance of Aggregator"),
        ({"model": 3}, "model is of type int"),
        ({"model": (torch.nn.Linear(1, 1), str)}, "tuple"),
        ({"model": "tiny", "backbone": "tiny"}, "give one of them"),
        ({"aggregator": Again(Again.Config()), "aggregator_options": {"longest": 3}}, "leave out aggregator_options"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(pf.PromptFedError, match=words) as said:
        pf.train(folder=tmp_path / "run", **{**ONLY_METHOD, **options})
    assert "\n" not in str(said.value)


def test_a_class_has_its_own_name_and_no_other_class_has_it() -> None:
    def again(doc: str) -> type[Mean]:
        return type("Mine", (Mean,), {"__doc__": doc, "__module__": "notebook", "__qualname__": "Mine"})

    from promptfed.aggregators.base import AGGREGATORS

    assert AGGREGATORS.adopt(Mean) == "mean", "under the name that it has"
    first, second = again("one"), again("two")
    assert AGGREGATORS.adopt(first) == AGGREGATORS.adopt(second) == "Mine"
    assert AGGREGATORS["Mine"] is second, "a cell of a notebook that is run again defines it anew"
    with pytest.raises(pf.PromptFedError, match="is another class already"):
        AGGREGATORS.adopt(type("Mine", (Mean,), {"__module__": "elsewhere"}))
    with pytest.raises(pf.PromptFedError, match="'mean' is another class already"):
        AGGREGATORS.adopt(type("mean", (Mean,), {"__module__": "elsewhere"}))


def test_an_instance_that_knows_more_than_its_config_is_refused() -> None:
    class Scaled(Mean):
        def __init__(self, config: Any, scale: float = 1) -> None:
            super().__init__(config)
            self.scale = scale

    with pytest.raises(pf.PromptFedError, match="aggregator Scaled holds scale, which its Config does not say"):
        pf.train(aggregator=Scaled(Scaled.Config(), 2), **ONLY_METHOD)


@pytest.mark.parametrize(
    ("load", "role"),
    [
        (lambda: load_source("object:list"), "data"),
        (lambda: load_texts("object:list", Columns()), "data"),
        (lambda: pf.load_backbone("object:CLIP"), "model"),
        (lambda: load_oracle("object:score", PromptTemplate(), OracleOptions()), "oracle"),
    ],
)
def test_a_name_never_becomes_an_object(load: Callable[[], Any], role: str) -> None:
    """So a Flower server or site, a stranger's run and a bundle end with this line."""
    with pytest.raises(pf.PromptFedError, match=rf"{role} 'object:\w+' is a Python object, which no file holds"):
        load()


def test_a_comparison_takes_them_too(pictures: Any, tmp_path: Path) -> None:
    options = {name: value for name, value in SMALL.items() if name != "progress"}
    found = pf.compare([Halved], data=pictures, model="tiny", folder=tmp_path / "out", progress=False, **options)
    assert "Halved" in found["methods"]
    assert found["data"] == "object:list"
