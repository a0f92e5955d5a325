"""Lists of images with several labels: what is read, and what is refused in a line."""

from __future__ import annotations

import json
import random

import pytest
from PIL import Image

from promptfed.errors import ConfigError, DataError
from promptfed.tasks.sources.icon_collages import source as collages
from promptfed.tasks.sources.labelled_images import source


@pytest.fixture
def folder(tmp_path):
    """Six different small images."""
    draw = random.Random(0)
    for number in range(6):
        image = Image.new("RGB", (8, 8), tuple(draw.randrange(256) for _ in range(3)))
        image.save(tmp_path / f"{number}.png")
    return tmp_path


def table(folder, *lines, header="path,labels"):
    (folder / "photos.csv").write_text("\n".join([header, *lines]))
    return f"csv:{folder / 'photos.csv'}"


def test_labels_are_separated_by_semicolons_or_bars_and_rows_of_one_image_are_joined(folder):
    data = source(table(folder, "0.png,dog;cat", "1.png,bird|dog", "2.png,cat", "0.png, bird "))
    assert data.classes == ("bird", "cat", "dog")
    assert [sample.item.grades for sample in data.samples] == [(1, 1, 1), (1, 0, 1), (0, 1, 0)]
    assert [data.classes[sample.label] for sample in data.samples] == ["dog", "bird", "cat"], "the first label"


def test_json_has_lists(folder):
    rows = [{"path": "0.png", "labels": ["dog", "cat"]}, {"path": "1.png", "labels": "bird;dog", "split": "test"}]
    (folder / "photos.json").write_text(json.dumps(rows))
    (folder / "photos.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for kind in ("json", "jsonl"):
        data = source(f"{kind}:{folder}/photos.{kind}")
        assert [sample.item.grades for sample in data.samples] == [(0, 1, 1), (1, 0, 1)], kind
        assert [sample.split for sample in data.samples] == ["", "test"]


def test_a_list_may_name_clients_and_images_of_nobody_are_for_test(folder):
    lines = ["0.png,dog;cat,north,train", "1.png,cat,south,", "2.png,dog,,train"]
    data = source(table(folder, *lines, header="path,labels,client,split"))
    assert data.by_client
    assert [(sample.domain, sample.split) for sample in data.samples] == [
        ("north", "train"), ("south", ""), ("", "test"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        ("path,label", ["0.png,dog"], "lacks column labels: its first line must be path,labels"),
        ("path,labels", ["0.png,dog", "1.png,"], r"line 3: '1.png' has no label: .*task.skip_unlabelled=true"),
        ("path,labels", ['0.png,"dog,cat"'], "label 'dog,cat' holds a comma: write ; or | between labels"),
        ("path,labels", [",dog"], "line 2 lacks its path"),
        ("path,labels,split", ["0.png,dog,testing"], "split 'testing' must be train, val, test or empty"),
        ("path,labels,client", ["0.png,dog,a", "0.png,cat,b"], "line 3 gives '0.png' another client than .*line 2"),
        ("path,labels", ["nowhere.png,dog", "0.png,cat"], "nowhere.png"),
        ("path,labels", [], "lists no images"),
    ],
)
def test_bad_rows_are_refused(header, lines, message, folder):
    with pytest.raises(DataError, match=message.replace("|", r"\|")) as refusal:
        source(table(folder, *lines, header=header), strict=True)
    assert "\n" not in str(refusal.value)


def test_unknown_labels_are_refused_where_the_classes_are_given(folder):
    data = table(folder, "0.png,dog;cta", "1.png,cat")
    with pytest.raises(DataError, match="line 2: label 'cta' is none of the classes dog, cat: correct it"):
        source(data, classes=("dog", "cat"))


def test_images_without_labels_may_be_left_out(folder):
    data = source(table(folder, "0.png,dog", "1.png,", "2.png,cat"), skip_unlabelled=True)
    assert len(data.samples) == 2
    assert "left out, since they have no label: 1 images" in data.notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"path": "0.png"}', "holds a JSON dict: it must be a list of objects"),
        ("[3]", "entry 1 must be an object"),
        ('[{"path": "0.png"}]', "entry 1 has no labels"),
        ('[{"path": "0.png", "labels": ["dog", 3]}]', "labels must be names"),
        ('[{"path": "0.png", "labels": 7}]', "labels are 7: write a list of names"),
        ("[", "not usable JSON"),
    ],
)
def test_bad_json_is_refused(content, message, folder):
    (folder / "photos.json").write_text(content)
    with pytest.raises(DataError, match=message):
        source(f"json:{folder}/photos.json")


def test_other_kinds_and_missing_files_are_refused(folder):
    with pytest.raises(ConfigError, match="write csv:FILE with columns path and labels"):
        source("folder:photos")
    with pytest.raises(DataError, match=r"cannot read .*none\.csv"):
        source(f"csv:{folder / 'none.csv'}")
    with pytest.raises(DataError, match="names no client in any row"):
        source(table(folder, "0.png,dog", "1.png,cat"), needs_clients=True)


def test_collages_show_two_icons_each_and_are_always_the_same():
    first, second = collages(), collages()
    assert len(first.classes) == 12
    assert {sum(sample.item.grades) for sample in first.samples} == {2.0}
    assert all(sample.item.grades[sample.label] == 1 for sample in first.samples)
    assert [s.item.content_id() for s in first.samples] == [s.item.content_id() for s in second.samples]
    assert {sample.split for sample in first.samples} == {"train", "test"}
    assert first.samples[0].item.load().size == (64, 64)
