"""What a message may say, field by field: the first thing that is wrong is named in one line."""

from __future__ import annotations

import json
import time

import pytest

pytest.importorskip("flwr")

from promptfed.deployment import codec, messages
from promptfed.deployment.fields import MOST_CLASSES
from promptfed.errors import DeploymentError
from promptfed.printable import printable

HELLO = {
    "site": {"name": "north", "domain": "photo"}, "client": None, "classes": ["cat", "dog"], "train": [5, 6],
    "val": [1, 1], "test": [2, 0], "promptfed": "0.1.0", "key": "a" * 32, "notes": [], "identity": "",
}  # fmt: skip
TRAIN = {
    "client": 0, "round": 1, "samples": 4, "loss": 1.5, "accuracy": 0.5, "seconds": 0.1, "usage": {}, "kept": 0,
    "is_bare": False, "figures": {"clip.clipped": 1.0}, "is_held": False, "is_protected": False,
    "epsilon": 1.5, "failure": "",
}  # fmt: skip
RIGHT = {"right": 3, "of": 4, "accuracy": 0.75}
EVALUATE = {"client": 0, "local": RIGHT, "local_all": RIGHT, "base": RIGHT, "new": None, "domains": {"photo": RIGHT},
            "measures": {}}  # fmt: skip
MANY = [f"class {n}" for n in range(2 * MOST_CLASSES)]
NAMES = {
    "10 MB": "x" * 10_000_000, "nothing": "", "blanks": "   ", "escape code": "\x1b[31mred", "line": "two\nlines",
    "reversed": "\u202egnp", "65 letters": "x" * 65, "a number": 5, "null": None, "a list": ["x"], "NUL": "a\x00b",
}  # fmt: skip
COUNTS = {
    "10**12": 10**12, "10**400": 10**400, "negative": -1, "half": 0.5, "NaN": float("nan"), "text": "5", "true": True,
    "null": None, "infinite": float("inf"), "10**19": 10**19,
}  # fmt: skip
REALS = {
    "NaN": float("nan"),
    "infinite": float("inf"),
    "1e308": 1e308,
    "text": "0.5",
    "list": [0.5],
    "10**400": 10**400,
}


def wrong_hellos():
    for what, name in NAMES.items():
        yield f"site {what}", {**HELLO, "site": {"name": name, "domain": ""}}
        yield f"class {what}", {**HELLO, "classes": ["cat", name]}
        if what not in ("nothing",):
            yield f"domain {what}", {**HELLO, "site": {"name": "north", "domain": name}}
    for what, count in COUNTS.items():
        for use in ("train", "val", "test"):
            yield f"{use} {what}", {**HELLO, use: [5, count]}
    yield "total", {**HELLO, "train": [10**9, 1]}
    yield "20,000 classes", {**HELLO, "classes": MANY, **dict.fromkeys(("train", "val", "test"), [1] * len(MANY))}
    yield "too few counts", {**HELLO, "val": [1]}
    yield "too many counts", {**HELLO, "test": [1, 2, 3]}
    yield "no class", {**HELLO, "classes": [], "train": [], "val": [], "test": []}
    yield "a class twice", {**HELLO, "classes": ["cat", "cat"]}
    yield "a key that is none", {**HELLO, "key": "../../key"}
    for what in ("0" * 63, "g" * 64, "0" * 65, 5, None):
        yield f"an identity {what}", {**HELLO, "identity": what}
    yield "a thousand notes", {**HELLO, "notes": ["x"] * 1_000}
    yield "a long note", {**HELLO, "notes": ["x" * 1_001]}
    yield "a field too many", {**HELLO, "admin": True}
    yield "a field too few", {k: v for k, v in HELLO.items() if k != "site"}


def wrong_updates():
    for field in ("client", "round", "samples", "kept"):
        for what, count in COUNTS.items():
            yield f"{field} {what}", {**TRAIN, field: count}
    for field in ("loss", "accuracy", "seconds"):
        for what, value in REALS.items():
            yield f"{field} {what}", {**TRAIN, field: value}
    yield "accuracy 1.5", {**TRAIN, "accuracy": 1.5}
    yield "accuracy null", {**TRAIN, "accuracy": None}
    yield "no samples", {**TRAIN, "samples": 0}
    yield "no samples of a change that is held", {**TRAIN, "is_held": True, "samples": 0}
    yield "a change that is perhaps held", {**TRAIN, "is_held": 1}
    yield "no samples of a protected update", {**TRAIN, "is_protected": True, "samples": 0}
    yield "a negative epsilon", {**TRAIN, "epsilon": -1.0}
    yield "an endless epsilon", {**TRAIN, "epsilon": float("inf")}
    yield "a long failure", {**TRAIN, "failure": "x" * 1_001}
    for what, count in COUNTS.items():
        if what not in ("10**12",):
            yield f"usage {what}", {**TRAIN, "usage": {"image_encoder_calls": count}}
    yield "usage of what is none", {**TRAIN, "usage": {"coffee": 1}}


def wrong_figures():
    for place in ("local", "local_all", "base", "new"):
        for what, count in COUNTS.items():
            yield f"{place} right {what}", {**EVALUATE, place: {**RIGHT, "right": count}}
            yield f"{place} of {what}", {**EVALUATE, place: {**RIGHT, "of": count}}
        for what, value in REALS.items():
            yield f"{place} accuracy {what}", {**EVALUATE, place: {**RIGHT, "accuracy": value}}
        yield f"{place} 5 of 4", {**EVALUATE, place: {"right": 5, "of": 4, "accuracy": 1.0}}
        yield f"{place} 0 of 0", {**EVALUATE, place: {"right": 0, "of": 0, "accuracy": 0.0}}
        yield f"{place} another accuracy", {**EVALUATE, place: {**RIGHT, "accuracy": 0.9}}
    for what, name in NAMES.items():
        if isinstance(name, str):
            yield f"domain {what}", {**EVALUATE, "domains": {name: RIGHT}}
    yield "domains null", {**EVALUATE, "domains": None}


CASES = {
    **{f"hello: {what}": (messages.HelloAnswer, words) for what, words in wrong_hellos()},
    **{f"train: {what}": (messages.TrainAnswer, words) for what, words in wrong_updates()},
    **{f"evaluate: {what}": (messages.EvaluateAnswer, words) for what, words in wrong_figures()},
    "prepare: images": (messages.PrepareAnswer, {"images": 10**400, "seconds": 1.0}),
    "prepare: seconds": (messages.PrepareAnswer, {"images": 1, "seconds": float("nan")}),
    "finish: a long place": (messages.FinishAnswer, {"client": 0, "bundle": "x" * 10_000_000}),
    "problem: a long one": (messages.ErrorReply, {"why": "x" * 10_000_000}),
}


def arrived(kind, words):
    content = codec.pack(messages.ErrorReply(why="x"))
    text = json.dumps({"kind": kind.__name__, "words": words, "parts": {}, "started": None})
    content[codec.ABOUT] = codec.ConfigRecord({codec.JSON: text})
    return content


@pytest.mark.parametrize("what", CASES)
def test_a_wrong_field_is_refused_in_one_short_line(what):
    kind, words = CASES[what]
    began = time.monotonic()
    with pytest.raises(DeploymentError) as refused:
        codec.unpack(arrived(kind, words), kind)
    assert time.monotonic() - began < 5
    line = str(refused.value)
    assert len(line) < 1_000
    assert printable(line) == line


@pytest.mark.parametrize(
    ("kind", "words"),
    [(messages.HelloAnswer, HELLO), (messages.TrainAnswer, TRAIN), (messages.EvaluateAnswer, EVALUATE)],
)
def test_what_is_right_arrives_as_it_was(kind, words):
    assert codec.unpack(arrived(kind, words), kind).words.model_dump(mode="json", exclude={"usage"}) == {
        name: value for name, value in words.items() if name != "usage"
    }


@pytest.mark.parametrize("name", ["[/b]", r"$\bad$", "熊猫", "red panda", "🐼", "a|b", "x" * 64])
def test_names_of_every_script_and_markup_are_names(name):
    words = {**HELLO, "site": {"name": name, "domain": name}, "classes": [name, "dog"]}
    assert codec.unpack(arrived(messages.HelloAnswer, words), messages.HelloAnswer).words.site.name == name


def test_lines_for_people_arrive_escaped():
    words = codec.unpack(arrived(messages.HelloAnswer, {**HELLO, "notes": ["\x1b[2Jgone"]}), messages.HelloAnswer).words
    assert words.notes == ("\\x1b[2Jgone",)
    with pytest.raises(DeploymentError, match=r"^\\x1b\[31mred$"):
        codec.unpack(arrived(messages.ErrorReply, {"why": "\x1b[31mred"}), messages.TrainAnswer)


def test_what_a_site_would_say_is_checked_before_it_is_sent():
    with pytest.raises(DeploymentError, match=r"site.name|name"):
        messages.SiteInfo.create(name="x" * 65)
    assert len(messages.problem("x\n" * 10_000).why) == 1_000
