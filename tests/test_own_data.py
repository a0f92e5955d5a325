"""What a user's own data get by default: all classes are trained, and no model for icons looks at photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from promptfed.commands import options
from promptfed.config import RunConfig, build_config
from promptfed.errors import ConfigError
from promptfed.experiment import Experiment
from promptfed.resolve import resolve
from promptfed.tasks import TASKS
from promptfed.tasks.partitioning import settle

OWN = ("folder:photos", "hf:someone/photos", "torchvision:CIFAR10", "folder:/a/b")


def resolved(**values: Any) -> RunConfig:
    return resolve(build_config(values))


@pytest.mark.parametrize("task", ["clip-fewshot", "blackbox-vision"])
@pytest.mark.parametrize("data", OWN)
def test_all_classes_of_own_data_are_trained(task: str, data: str) -> None:
    config = resolved(task=task, data=data)
    assert config.task_options["base_fraction"] == 1.0
    assert config.partition == "auto"
    assert "lit" in (config.oracle or config.backbone)


@pytest.mark.parametrize("data", ["tsv:mails.tsv", "jsonl:mails.jsonl", "hf:someone/mails"])
def test_own_texts_are_dealt_out_likewise(data: str) -> None:
    config = resolved(task="blackbox-text", data=data)
    assert (config.task_options["base_fraction"], config.partition) == (1.0, "auto")


def test_benchmarks_keep_their_protocol() -> None:
    for values, partition, backbone in (({}, "classes", "tiny"), ({"data": "coop:caltech"}, "classes", "lit")):
        config = resolved(**values)
        assert (config.task_options["base_fraction"], config.partition, config.backbone) == (0.5, partition, backbone)
    assert resolved(task="blackbox-text").partition == "dirichlet"
    assert resolved(task="blackbox-vision").oracle == "clip:tiny"


def test_what_the_user_says_wins() -> None:
    own = {"data": "folder:photos"}
    assert resolved(**own, backbone="tiny").backbone == "tiny"
    assert resolved(**own, partition="classes").partition == "classes"
    assert resolved(**own, alpha=0.1).partition == "dirichlet", "alpha is of no use to another"
    assert resolved(**own, task_options={"classes_per_client": 2}).partition == "classes"
    assert resolved(**own, task_options={"base_fraction": 0.5}).task_options["base_fraction"] == 0.5
    assert resolved(task="blackbox-vision", **own, oracle="clip:tiny").oracle == "clip:tiny"
    again = resolve(RunConfig(**resolved().model_dump()))
    assert again == resolved(), "a config file says all options, so nothing of it changes"


def test_images_listed_in_a_csv_are_own_data() -> None:
    config = resolved(partition="csv:who.csv")
    assert (config.backbone, config.task_options["base_fraction"]) == ("lit", 1.0)


@pytest.mark.parametrize(("share", "trained"), [("0.5", 0.5), ("0", 1.0), ("0.3", 0.7), (".25", 0.75)])
def test_hold_out_classes_is_the_share_that_is_new(share: str, trained: float) -> None:
    assert options.given({"hold_out_classes": share}) == {"task_options": {"base_fraction": trained}}


@pytest.mark.parametrize("share", ["1", "-0.1", "half", "nan", "1e400"])
def test_a_share_that_is_none_is_refused(share: str) -> None:
    with pytest.raises(ConfigError, match="--hold-out-classes"):
        options.given({"hold_out_classes": share})


def test_auto_is_by_domain_where_there_are_domains() -> None:
    assert settle(["photo", "sketch"], 100, None)[:2] == ("domain", None)
    assert settle(["photo", "sketch", "art"], 100, 2)[:2] == ("domain", 2)
    assert settle(["photo", "sketch"], 100, 10)[:2] == ("dirichlet", 10)
    assert settle([], 1000, None)[:2] == ("dirichlet", 8)
    assert settle(["only"], 30, None)[:2] == ("dirichlet", 3)
    assert settle([], 5, None)[:2] == ("dirichlet", 2)


def pictures(folder: Path, *places: str, each: int = 12) -> str:
    for number, place in enumerate(places):
        (folder / place).mkdir(parents=True)
        for k in range(each):
            Image.new("RGB", (8, 8), (20 * number, 5 * k, 100)).save(folder / place / f"{k}.png")
    return f"folder:{folder}"


def test_a_folder_is_dealt_out_and_says_how(tmp_path: Path) -> None:
    classes = ("ant", "bee", "cow", "dog")
    flat = pictures(tmp_path / "flat", *classes)
    by_domain = pictures(tmp_path / "domains", *(f"{d}/{c}" for d in ("inside", "outside") for c in classes))
    for data, partition, clients in ((flat, "dirichlet", 6), (by_domain, "domain", 2)):
        config = resolved(data=data, shots=2)
        task = TASKS[config.task].build(config)
        assert (task.partition, len(task.clients)) == (partition, clients)
        assert (task.base_classes, task.new_classes) == (classes, ())
        assert any(note.startswith("partition auto: ") for note in task.notes)
    held_out = resolved(data=flat, shots=2, partition="classes", task_options={"base_fraction": 0.5})
    assert TASKS[held_out.task].build(held_out).new_classes == ("cow", "dog")


def test_the_icon_model_on_photographs_gets_one_note(tmp_path: Path) -> None:
    data = pictures(tmp_path, "ant", "bee", "cow")
    config = resolved(data=data, shots=2, backbone="tiny")
    experiment = Experiment.build(config)
    assert len(experiment.model_notes) == 1
    assert "--backbone lit" in experiment.notes[-1]
    assert Experiment.build(resolved()).model_notes == ()
