"""Questions about images: drawn shapes, and the layouts of easy-vqa and VQA-RAD in folders of a few pictures."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from promptfed.errors import ConfigError, DataError
from promptfed.tasks.sources.shapes import COLORS, ShapeItem
from promptfed.tasks.sources.visual_questions import load_visual_questions

HOW = {"images": 6, "about": "both", "seed": 0, "by": "color"}


def rad_row(image, question, answer, organ, closed=True, phrase="freeform", sort="PRES"):
    return {
        "image_name": image, "question": question, "answer": answer, "answer_type": "CLOSED " if closed else "OPEN",
        "image_organ": organ, "phrase_type": phrase, "question_type": sort,
    }  # fmt: skip


def write_rad(folder, rows):
    images = folder / "VQA_RAD Image Folder"
    images.mkdir(parents=True)
    for name in {row["image_name"] for row in rows}:
        Image.new("L", (12, 10), 90).save(images / name)
    (folder / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    return folder


def test_shapes_ask_as_often_for_what_is_there_as_for_what_is_not():
    data = load_visual_questions("shapes", **HOW)
    counts = Counter(one.answer for one in data.asked)
    assert counts["yes"] == counts["no"] == 2 * 6 * len(COLORS)
    for one in data.asked:
        words = {one.image.shape, one.image.color}
        asked_for = one.question.removesuffix("?").split()[-1]
        if one.answer in ("yes", "no"):
            assert (asked_for in words) == (one.answer == "yes")
        else:
            assert one.answer in words
    assert data.asked == load_visual_questions("shapes", **HOW).asked
    assert data.asked != load_visual_questions("shapes", **{**HOW, "seed": 1}).asked
    about = {one.question for one in load_visual_questions("shapes", **{**HOW, "about": "shape"}).asked}
    assert not any(color in question for color in COLORS for question in about)


@pytest.mark.parametrize("shape", ["circle", "rectangle", "triangle"])
def test_a_shape_is_drawn_in_its_colour_always_alike(shape):
    item = ShapeItem(shape, "blue", 7)
    pixels = np.asarray(item.load())
    is_blue = (pixels == COLORS["blue"]).all(-1)
    assert 150 < is_blue.sum() < 1600
    assert (pixels == np.asarray(ShapeItem(shape, "blue", 7).load())).all()
    assert item.content_id() != ShapeItem(shape, "blue", 8).content_id()


def test_easy_vqa_says_by_its_questions_what_an_image_shows(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "images").mkdir(parents=True)
        rows = [
            ["what color is the shape?", "teal", 0], ["is there a circle?", "no", 0],
            ["is there a red shape in the image?", "yes", 1], ["what shape is it?", "circle", 1],
            ["is there not a red shape?", "yes", 2],
        ]  # fmt: skip
        (tmp_path / split / "questions.json").write_text(json.dumps(rows))
    data = load_visual_questions(f"easyvqa:{tmp_path}", **HOW)
    assert [(one.home, one.kind, one.split) for one in data.asked[:4]] == [
        ("teal", "which color", "train"), ("teal", "yes or no", "train"),
        ("red", "yes or no", "train"), ("red", "which shape", "train"),
    ]  # fmt: skip
    assert len(data.asked) == 8
    assert data.notes == ("2 images are left out, whose questions do not say their color",)
    shapes = load_visual_questions(f"easyvqa:{tmp_path}", **{**HOW, "by": "shape"})
    assert {one.home for one in shapes.asked} == {"circle"}


def test_vqa_rad_is_read_in_its_own_layout(tmp_path):
    rows = [
        rad_row("synpic1.jpg", "Is there  a mass?", "Yes", "CHEST"),
        rad_row("synpic1.jpg", "Which side?", "left.", "CHEST", sort="POS", phrase="test_freeform"),
        rad_row("synpic2.jpg", "How many?", 3, "HEAD", closed=False, sort="COUNT"),
    ]
    data = load_visual_questions(f"vqarad:{write_rad(tmp_path, rows)}", **HOW)
    assert [(o.question, o.answer, o.kind, o.is_closed, o.home, o.split) for o in data.asked] == [
        ("Is there a mass?", "yes", "yes or no", True, "chest", ""),
        ("Which side?", "left", "closed pos", True, "chest", ""),
        ("How many?", "3", "open count", False, "head", ""),
    ]
    assert data.asked[0].image.load().mode == "RGB"


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        ("vqarad", ConfigError, "lacks a path: write vqarad:DIR"),
        ("vqax:y", ConfigError, "vqax"),
        ("vqarad:{}", DataError, "has no 'VQA_RAD Dataset Public.json'"),
        ("easyvqa:{}", DataError, "has no train/questions.json"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(data, error, said, tmp_path):
    with pytest.raises(error, match=said) as caught:
        load_visual_questions(data.format(tmp_path), **HOW)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question": " "}, "entry 1: it has no question"),
        ({"answer": None}, "entry 1: it has no answer"),
        ({"question": "x" * 400}, "400 characters, where 300 are allowed"),
        ({"image_name": "../../etc/passwd"}, "is no file name"),
        ({"image_name": "synpic9.jpg"}, "1 images of VQA-RAD are missing"),
    ],
)
def test_bad_rows_of_vqa_rad_are_said_in_one_line(change, said, tmp_path):
    folder = write_rad(tmp_path, [rad_row("synpic1.jpg", "Is it?", "no", "HEAD")])
    row = {**rad_row("synpic1.jpg", "Is it?", "no", "HEAD"), **change}
    (folder / "VQA_RAD Dataset Public.json").write_text(json.dumps([row]))
    with pytest.raises(DataError, match=said) as caught:
        load_visual_questions(f"vqarad:{folder}", **HOW)
    assert "\n" not in str(caught.value)
