"""The task multilabel: how images with several labels are dealt out, and which methods train on them."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from promptfed.api import train
from promptfed.class_losses import sigmoid_bias
from promptfed.commands.predictions import as_json
from promptfed.config import build_config
from promptfed.errors import BundleError, ConfigError, DataError
from promptfed.evaluation import evaluate
from promptfed.experiment import Experiment
from promptfed.export.bundle import make_bundle, read_bundle
from promptfed.export.predict import Predictor
from promptfed.measures.base import build_measures
from promptfed.resolve import complete
from promptfed.serving.limits import ServeLimits
from promptfed.serving.service import Service
from promptfed.tasks import TASKS
from promptfed.types import ClientPrompt, Split

PHOTOS = Path(os.environ.get("PROMPTFED_DATA", Path(__file__).parents[3] / "shared" / "data")) / "caltech101_40"


def built(**options):
    return TASKS["multilabel"].build(complete(build_config({"task": "multilabel", **options})))


def test_clients_hold_the_classes_that_their_images_show():
    task = built(clients=3, shots=2)
    assert task.partition == "dirichlet"
    assert len(task.base_classes) == 12
    assert task.new_classes == ()
    for data in task.clients:
        shown = data.train.grades.sum(0)
        assert data.classes == tuple(shown.nonzero()[:, 0].tolist())
        assert set(data.train.labels.tolist()) <= set(data.classes)
        assert set(data.test.labels.tolist()) <= set(data.train.labels.tolist())
    assert "528 of 528 images have several labels" in task.notes


@pytest.mark.parametrize("partition", ["iid", "quantity", "classes"])
def test_other_partitions(partition):
    assert len(built(clients=4, shots=2, partition=partition).clients) == 4


def test_the_default_judges_each_class_by_itself():
    config = complete(build_config({"task": "multilabel"}))
    assert config.method_options["loss"] == "sigmoid"
    assert config.measures == ("map",)
    chosen = complete(build_config({"task": "multilabel", "method_options": {"loss": "asymmetric"}}))
    assert chosen.method_options["loss"] == "asymmetric"
    assert "loss" not in complete(build_config({"task": "multilabel", "method": "zero_shot"})).method_options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method_options": {"loss": "cross_entropy"}}, "needs a loss for several labels, and loss is 'cross_entropy'"),
        ({"data": "folder:photos"}, "'folder:.*photos' is no source of task 'multilabel': write icons"),
        ({"partition": "csv:"}, "lacks its file"),
    ],
)
def test_what_does_not_go_is_refused(options, message):
    with pytest.raises((ConfigError, DataError), match=message):
        built(**options)


@pytest.mark.parametrize("name", ["labelflip", "backdoor"])
def test_attacks_on_the_one_label_of_an_image_are_refused(name):
    config = build_config({"task": "multilabel", "clients": 3, "shots": 2, "attack_options": {"name": name}})
    with pytest.raises(ConfigError, match=f"attack '{name}' changes the one label of an example"):
        Experiment.build(config)


def test_the_best_class_is_right_if_the_image_shows_it():
    items = built(clients=2, shots=1).base_test.items[:2]
    split = Split(items, torch.tensor([0, 0]))
    shown = [[k for k, grade in enumerate(item.grades) if grade] for item in items]
    absent = next(k for k in range(12) if k not in shown[1])
    assert split.is_right(torch.tensor([shown[0][1], absent])).tolist() == [True, False]
    assert split.is_right(torch.tensor([-1, shown[1][0]])).tolist() == [False, True]


def test_a_list_names_the_clients(tmp_path):
    draw = np.random.default_rng(0)
    rows = []
    for number in range(16):
        Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        rows.append((f"{number}.png", "cat;dog" if number % 2 else "dog;bird", "ab"[number // 8]))
    with (tmp_path / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "labels", "client"), *rows])
    for options in ({"data": f"csv:{tmp_path}/photos.csv"}, {"partition": f"csv:{tmp_path}/photos.csv"}):
        task = built(**options, backbone="tiny")
        assert [data.name for data in task.clients] == ["a", "b"]
        assert task.clients[0].classes == (0, 1, 2)


def test_a_class_that_no_image_shows_in_training_is_named(tmp_path):
    for number in range(4):
        Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    lines = ["path,labels,split", "0.png,dog,train", "1.png,cat,train", "2.png,dog;bird,test", "3.png,cat,test"]
    (tmp_path / "photos.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"class 'bird' of data .* has no training images: add some"):
        built(data=f"csv:{tmp_path}/photos.csv", backbone="tiny", partition="iid", clients=1)


def test_it_trains_and_no_bundle_is_made_without_the_images():
    """One round of few examples: measures, average precision by class, and the refusal of a bundle without a bias."""
    options = {"clients": 2, "shots": 2, "rounds": 1, "method_options": {"n_ctx": 2, "local_epochs": 1}}
    config = complete(build_config({"task": "multilabel", "task_options": {"test_per_class": 2}, **options}))
    experiment = Experiment.build(config)
    federation = experiment.federation()
    state, replies = federation.run_round(federation.start())
    assert not any(reply.failure for reply in replies)
    evaluation = evaluate(experiment.method(), federation.prompts(state), experiment.task, build_measures(["map"]))
    assert 0 < evaluation.figures.measures["map"]["base"] <= 1
    precisions = evaluation.answers.average_precisions()
    assert [label for label, _, _ in precisions] == list(range(12))
    assert evaluation.answers.counts() == []
    with pytest.raises(BundleError, match="export it from its run"):
        make_bundle(config, experiment.method(), ClientPrompt(state.shared), 0, "a", "images")


def test_a_bundle_says_all_labels_that_reach_the_threshold(tmp_path):
    config = {"clients": 2, "shots": 2, "rounds": 1, "method_options": {"n_ctx": 2, "local_epochs": 1}}
    options = {"task": "multilabel", "task_options": {"test_per_class": 2}, "baselines": (), **config}
    run = train(folder=tmp_path / "run", progress=False, **options)
    bundle = read_bundle(run.export(client=0, path=tmp_path / "bundle"))
    data = TASKS["multilabel"].build(complete(build_config(options))).clients[0]
    method = Experiment.build(complete(build_config(options))).method()
    assert bundle.meta.label_bias == pytest.approx(sigmoid_bias(method.setup, data))
    predictor = Predictor(bundle, method.setup.model)
    image = data.test.items[0]
    shares = (predictor.scores(data.test)[0] + bundle.meta.label_bias).sigmoid()
    middle = float(shares.sort().values[-4])
    [answer] = predictor.predict([image], top=1, threshold=middle - 1e-4)
    assert len(answer.labels) == 4
    assert [name for name, _ in answer.ranked] == list(answer.labels), "all labels, though top is 1"
    assert [share for _, share in answer.ranked] == pytest.approx(
        shares.sort(descending=True).values[:4].tolist(), abs=1e-4
    )
    [answer] = predictor.predict([image], threshold=1.0)
    assert answer.is_none
    assert answer.labels == ()
    assert as_json(answer, "path", 1.0)["labels"] == []
    with pytest.raises(ConfigError, match="says several labels of an image: use promptfed predict"):
        Service({"b": bundle}, method.setup.model, {}, ServeLimits())


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="PROMPTFED_DATA has no caltech101_40")
def test_on_collages_of_two_photographs_a_prompt_is_better_than_zero_shot(tmp_path):
    """Both halves of a picture are photographs of different classes; training and test have other photographs."""
    pytest.importorskip("promptfed.backbones.lit")
    data = collages_of_photographs(tmp_path)
    options = {
        "task": "multilabel", "data": data, "backbone": "lit", "partition": "iid", "clients": 2, "shots": 6,
        "rounds": 5, "method_options": {"n_ctx": 4},
    }  # fmt: skip
    experiment = Experiment.build(complete(build_config(options)))
    experiment.fill_features()
    figures = {}
    for stage, rounds in ((None, 5), ("zero_shot", 1)):
        federation = experiment.federation(stage)
        state = federation.start()
        for _ in range(rounds):
            state, _ = federation.run_round(state)
        evaluation = evaluate(federation.method, federation.prompts(state), experiment.task, build_measures(["map"]))
        figures[stage] = evaluation.figures.measures["map"]["base"]
    assert figures[None] > figures["zero_shot"] + 0.03


def collages_of_photographs(folder: Path, classes: int = 16) -> str:
    """Write pictures of two photographs side by side, and the list of them; return its name as data."""
    draw, rows = np.random.default_rng(0), []
    names = sorted(place.name for place in PHOTOS.iterdir() if place.is_dir())[:classes]
    photos = {name: sorted((PHOTOS / name).glob("*.jpg")) for name in names}
    for split, count in (("train", 8), ("test", 5)):
        for i, first in enumerate(names):
            for k in range(count):
                second = names[int((i + 1 + draw.integers(len(names) - 1)) % len(names))]
                picture = Image.new("RGB", (224, 224))
                for place, name in enumerate((first, second)):
                    middle = len(photos[name]) // 2
                    pool = photos[name][:middle] if split == "train" else photos[name][middle:]
                    with Image.open(pool[int(draw.integers(len(pool)))]) as photo:
                        picture.paste(photo.convert("RGB").resize((112, 224)), (112 * place, 0))
                path = f"{split}-{i}-{k}.png"
                picture.save(folder / path)
                rows.append((path, f"{first};{second}", split))
    with (folder / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "labels", "split"), *rows])
    return f"csv:{folder}/photos.csv"
