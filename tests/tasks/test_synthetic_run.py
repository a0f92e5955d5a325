"""``--data synthetic:RUN``: which texts train, which are tests, how they are put, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from promptfed.blackbox.text.tensors import text_tensor
from promptfed.config import RunConfig, build_config
from promptfed.errors import ConfigError, DataError, RunError
from promptfed.prompt_state import PromptState
from promptfed.resolve import complete
from promptfed.runs.checkpoint import save_checkpoint
from promptfed.runs.directory import RunDirectory
from promptfed.runs.partition_file import partition_record, write_partition
from promptfed.tasks import TASKS, synthetic_run
from promptfed.tasks.sources.tables import Columns
from promptfed.types import FederatedTask, FederationState

TEXTS = ["cold wind", "ice", "snow night", "old coal", "warm fire", "ember", "old coal", "not voted for"]
WEIGHTS = [0.2, 0.5, 0.1, 0.3, 0.4, 0.1, 0.2, 0.0]
OPTIONS = {"words": {"cold": "winter", "hot": "summer"}, "template": "{{ prompt }} {{ text }}, as in"}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A finished run of private evolution, as far as its texts are concerned."""
    return make_run(tmp_path, WEIGHTS)


def make_run(folder: Path, weights: list[float], method: str = "private_evolution") -> RunDirectory:
    lines = [f"the {'fire' if k % 2 else 'ice'} {k}\t{'hot' if k % 2 else 'cold'}" for k in range(40)]
    (folder / "heat.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    config = complete(
        build_config(
            {
                "task": "text-classification",
                "data": f"tsv:{folder / 'heat.tsv'}",
                "method": method,
                "clients": 2,
                "rounds": 3,
                "task_options": {**OPTIONS, "test_per_class": 5},
            }
        )
    )
    run = RunDirectory.create(folder / "run", config, label="")
    write_partition(run, partition_record(TASKS["text-classification"].build(config)))
    shared = PromptState({"texts": text_tensor(json.dumps(TEXTS)), "weights": torch.tensor(weights)})
    state = FederationState(round=3, shared=shared, server=PromptState({}), personal={})
    save_checkpoint(run.stage_folder(method, is_baseline=False), state, events_bytes=0)
    run.write_metrics({"method": {}})
    return run


def build(run: RunDirectory | Path, **options: object) -> tuple[RunConfig, FederatedTask]:
    path = run.path if isinstance(run, RunDirectory) else run
    config = complete(build_config({"task": "blackbox-text", "data": f"synthetic:{path}", **options}))
    return config, TASKS[config.task].build(config)


def texts(*splits: object) -> set[str]:
    return {item.text for split in splits for item in split.items}


def test_synthetic_texts_train_and_the_real_tests_of_the_run_test(run: RunDirectory) -> None:
    config, task = build(run)
    assert (config.clients, config.partition, config.baselines) == (1, "iid", ("zero_shot",))
    [server] = task.clients
    assert texts(server.train, server.val) == {"cold wind", "ice", "snow night", "warm fire", "ember"}
    private = TASKS["text-classification"].build(run.config)
    assert texts(task.base_test) == texts(private.base_test)
    assert texts(server.test) == texts(private.base_test), "the server has both classes"
    assert not texts(*(data.train for data in private.clients)) & texts(server.train, server.val, server.test)
    assert task.base_classes == ("cold", "hot")
    assert [note.partition(" ")[0] for note in task.notes] == ["5", "tests"]
    assert "(private_evolution on tsv:" in task.notes[0]
    assert "no differential privacy) train and validate" in task.notes[0]
    assert task.notes[1].startswith("tests are the 10 real test texts of that run")


def test_the_note_has_the_runs_epsilon(run: RunDirectory) -> None:
    run.write_json("privacy.json", {"epsilon": 3.99, "delta": 1e-3, "unit": "one client's whole data"})
    assert "epsilon 3.99 at delta 0.001 of one client's whole data" in build(run)[1].notes[0]


@pytest.mark.parametrize(
    ("dp", "statement", "promise"),
    [
        ("client", None, "its epsilon is not known, since it has no privacy.json"),
        ("client", {"epsilon": None, "delta": None}, "no differential privacy"),
        ("none", None, "no differential privacy"),
    ],
)
def test_without_an_epsilon_the_note_says_whether_there_is_none(
    run: RunDirectory, dp: str, statement: dict | None, promise: str
) -> None:
    if dp != "none":
        private = {**run.config.privacy_options, "dp": dp, "epsilon": 4.0, "delta": 1e-3, "clip": 1.0}
        run.config = run.config.model_copy(update={"privacy_options": private})
    if statement is not None:
        run.write_json("privacy.json", statement)
    assert synthetic_run._promise(run).endswith(f", {promise}")


def test_texts_are_put_as_the_run_put_them_unless_options_say_otherwise(run: RunDirectory) -> None:
    config, plain = build(run)
    assert plain.form.words == {"cold": "winter", "hot": "summer"}
    changed, task = build(run, task_options={"words": {"hot": "July"}})
    form = task.form
    assert changed.task_options == {**config.task_options, "words": {"hot": "July"}}, "other defaults stay"
    assert task.clients[0].val.counts(2) == plain.clients[0].val.counts(2)
    assert form.words == {"cold": "winter", "hot": "July"}
    assert form.render("", "ice") == "ice, as in"


def test_without_the_real_texts_synthetic_ones_are_held_out_and_a_note_says_so(run: RunDirectory) -> None:
    (run.path.parent / "heat.tsv").unlink()
    _, task = build(run)
    [server] = task.clients
    held = texts(task.base_test)
    assert held
    assert held | texts(server.train, server.val) == {"cold wind", "ice", "snow night", "warm fire", "ember"}
    assert not held & texts(server.train, server.val)
    [note] = [note for note in task.notes if note.startswith("tests are")]
    assert "cannot be read" in note
    assert "do not say how good a prompt is on real texts" in note


def test_changed_tests_are_refused_as_some_may_have_been_trained_on(run: RunDirectory) -> None:
    with (run.path.parent / "heat.tsv").open("a") as file:
        file.write("more ice\tcold\n" * 9 + "and fire\thot\n")
    with pytest.raises(DataError, match=r"not those of run .* may have been trained on: .* --data synthetic:DIR\)?$"):
        build(run)


def test_a_fifth_of_each_class_validates_unless_shots_are_given(run: RunDirectory) -> None:
    texts_of_a_class = 10
    shared = {
        "texts": text_tensor(json.dumps([f"text {k}" for k in range(2 * texts_of_a_class)])),
        "weights": torch.ones(2 * texts_of_a_class),
    }
    state = FederationState(round=3, shared=PromptState(shared), server=PromptState({}), personal={})
    save_checkpoint(run.stage_folder(run.config.method, is_baseline=False), state, events_bytes=0)
    sizes = {}
    template = {"task_options": {"template": "{{ prompt }} {{ text }}"}}
    for name, options in {"default": {}, "template": template, "shots": {"shots": 2}}.items():
        [server] = build(run, **options)[1].clients
        sizes[name] = server.train.counts(2), server.val.counts(2)
    assert sizes["default"] == sizes["template"] == ([8, 8], [2, 2])
    assert sizes["shots"] == ([2, 2], [4, 4])


def test_clients_may_share_the_synthetic_texts(run: RunDirectory) -> None:
    config, task = build(run, clients=2)
    assert (config.clients, config.partition, len(task.clients)) == (2, "auto", 2)
    assert config.baselines is None


def test_an_exported_table_is_read_as_a_table(run: RunDirectory, tmp_path: Path) -> None:
    folder = tmp_path / "synthetic"
    folder.mkdir()
    (folder / "train.tsv").write_text("text\tlabel\n" + "".join(f"t{k}\t{'ab'[k % 2]}\n" for k in range(12)))
    _, task = build(folder)
    assert "tests are held out of the synthetic texts" in task.notes[0]
    (folder / "test.tsv").write_text("text\tlabel\nreal a\ta\nreal b\tb\n")
    _, task = build(folder)
    assert texts(task.base_test) == {"real a", "real b"}
    assert task.notes == ()
    assert build(folder / "train.tsv")[1].base_classes == ("a", "b")


def test_a_class_without_a_text_cannot_be_learned(tmp_path: Path) -> None:
    run = make_run(tmp_path, [0.2, 0.5, 0.1, 0.3, 0.0, 0.0, 0.0, 0.0])
    with pytest.raises(DataError, match=r"has no synthetic text of class 'hot'.* method.margin"):
        build(run)


@pytest.mark.parametrize(
    ("method", "lacks", "error", "message"),
    [
        ("private_evolution", "", RunError, r"'.*none' does not exist; `promptfed list runs` shows"),
        ("private_evolution", "metrics.json", RunError, r"has finished 3 of 3 rounds.* promptfed train --resume "),
        ("private_evolution", "partition.json", RunError, "has no partition.json"),
        ("private_evolution", "checkpoints", RunError, "has no checkpoint any more"),
        (
            "fedprompt",
            "",
            ConfigError,
            r"of method 'fedprompt', which makes no synthetic texts: name a run of fedpit or private",
        ),
    ],
)
def test_what_is_no_finished_run_of_synthetic_texts_is_one_line(
    tmp_path: Path, method: str, lacks: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "none"
    if lacks or method == "fedprompt":
        path = make_run(tmp_path, WEIGHTS, method).path
    if (place := path / lacks).is_dir() and lacks:
        shutil.rmtree(place)
    elif lacks:
        place.unlink()
    with pytest.raises(error, match=message) as raised:
        synthetic_run.source(str(path), Columns())
    assert "\n" not in str(raised.value)


def test_forged_files_are_named(run: RunDirectory) -> None:
    record = run.read_json("partition.json")
    run.write_json("partition.json", {**record, "form": {"template": 5}})
    with pytest.raises(ValueError, match="do not hold what promptfed writes"):
        build(run)
