"""Questions about images: drawn shapes, the package easy-vqa, and VQA-RAD's radiographs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from promptfed.errors import ConfigError, DataError, FormatError, unknown_name
from promptfed.examples.base import FileItem, ImageItem
from promptfed.printable import printable
from promptfed.readers.json_reader import JsonLimits, check_string, read_json
from promptfed.tasks.sources.shapes import drawn
from promptfed.tasks.sources.unreadable import check_folder, readable

SHAPES = "shapes"
FORMS = (SHAPES, "easyvqa", "easyvqa:DIR", "vqarad:DIR")
YES_NO = ("yes", "no")
LIMITS = JsonLimits(size=64_000_000, values=4_000_000)
RAD_QUESTIONS, RAD_IMAGES = "VQA_RAD Dataset Public.json", "VQA_RAD Image Folder"
LONGEST = 300
"""Characters of a question or an answer."""


@dataclass(frozen=True)
class Asked:
    """A question about an image.

    Attributes:
        image: What is looked at.
        question: In words.
        answer: The right one.
        kind: Questions of a kind have the same candidates for answers.
        is_closed: Whether the answer is one of a few, such as yes and no.
        home: The client that holds the image.
        split: "train", "test", or "" where the data leave that open.
    """

    image: ImageItem
    question: str
    answer: str
    kind: str
    is_closed: bool
    home: str
    split: str = ""


@dataclass(frozen=True)
class VisualQuestions:
    """Questions in a fixed order, with notes on what was left out."""

    name: str
    asked: tuple[Asked, ...]
    notes: tuple[str, ...] = ()


def load_visual_questions(data: str, *, images: int, about: str, seed: int, by: str) -> VisualQuestions:
    """Load the questions called ``data``.

    Args:
        data: One of FORMS.
        images: Of drawn shapes: pictures of each colour.
        about: Of drawn shapes: what is asked for.
        seed: Of drawn shapes.
        by: Of easy-vqa: whether clients hold a color or a shape.

    Raises:
        ConfigError: The kind is unknown or lacks its path.
        DataError: Files are missing or bad.
    """
    kind, _, path = data.partition(":")
    if data == SHAPES:
        return shapes(images, about, seed)
    if kind not in ("easyvqa", "vqarad"):
        raise unknown_name("source of questions about images", data, FORMS)
    if kind == "vqarad" and not path:
        raise ConfigError(f"data source '{data}' lacks a path: write vqarad:DIR")
    with readable(data):
        if path:
            check_folder(Path(path).expanduser())
        return vqa_rad(Path(path).expanduser()) if kind == "vqarad" else easy_vqa(easy_folder(path), by)


def shapes(images: int, about: str, seed: int) -> VisualQuestions:
    """Return questions about pictures of shapes that are drawn here; a client for each colour."""
    asked = [
        Asked(item, question, answer, "yes or no" if answer in YES_NO else question, True, item.color)
        for item, pairs in drawn(images, about, seed)
        for question, answer in pairs
    ]
    return VisualQuestions(SHAPES, tuple(asked))


# ------------------------------------------------------------------------------------------------------ easy-vqa

EASY_SHAPES = ("circle", "rectangle", "triangle")
_POSITIVE = re.compile(
    r"(?:is there an?|does the image contain an?|is an?) (\w+)(?: shape)?(?: present| in the image)?\?"
)


def easy_folder(path: str) -> Path:
    """Return the folder with train/ and test/ of easy-vqa: ``path``, or that of the installed package.

    Raises:
        DataError: It is not there.
    """
    if not path:
        spec = find_spec("easy_vqa")
        if spec is None or not spec.submodule_search_locations:
            raise DataError("data 'easyvqa' needs the package easy-vqa: pip install easy-vqa, or write easyvqa:DIR")
        return Path(next(iter(spec.submodule_search_locations))) / "data"
    folder = Path(path).expanduser()
    for below in (folder, folder / "data", folder / "easy_vqa" / "data"):
        if (below / "train" / "questions.json").is_file():
            return below
    raise DataError(f"'{printable(path)}' has no train/questions.json of easy-vqa")


def easy_vqa(folder: Path, by: str) -> VisualQuestions:
    """Return the questions of easy-vqa; a client for each colour, or for each shape.

    An image says what it shows by its own questions; the few that do not are left out.
    """
    asked, left_out = [], 0
    for split in ("train", "test"):
        rows: dict[int, list[tuple[str, str]]] = {}
        for row in _rows(folder / split / "questions.json"):
            if not (isinstance(row, list) and len(row) == 3 and isinstance(row[2], int)):
                raise FormatError(f"{split}/questions.json: {printable(row, 80)} is not [question, answer, image]")
            rows.setdefault(row[2], []).append((_text(row[0], "question"), _text(row[1], "answer")))
        for number, pairs in sorted(rows.items()):
            if not (home := _shown(pairs, by)):
                left_out += 1
                continue
            image = FileItem(folder / split / "images" / f"{number}.png")
            asked += [Asked(image, q, a, _easy_kind(a), True, home, split) for q, a in pairs]
    notes = (f"{left_out} images are left out, whose questions do not say their {by}",) if left_out else ()
    return VisualQuestions("easyvqa", tuple(asked), notes)


def _easy_kind(answer: str) -> str:
    return "yes or no" if answer in YES_NO else "which shape" if answer in EASY_SHAPES else "which color"


def _shown(pairs: Sequence[tuple[str, str]], by: str) -> str:
    """Return the colour or shape that an image shows, as its questions say; "" if they do not."""
    words = [answer for _, answer in pairs if answer not in YES_NO]
    words += [match[1] for question, answer in pairs if answer == "yes" and (match := _POSITIVE.fullmatch(question))]
    return next((word for word in words if (word in EASY_SHAPES) == (by == "shape")), "")


# ------------------------------------------------------------------------------------------------------- VQA-RAD


def vqa_rad(folder: Path) -> VisualQuestions:
    """Return the questions of VQA-RAD; a client for each organ.

    Its own test questions are about images of its training questions too, so they are not used: the split is by image.
    """
    if not (folder / RAD_QUESTIONS).is_file():
        raise DataError(f"'{printable(folder)}' has no '{RAD_QUESTIONS}' of VQA-RAD")
    asked, absent = [], {}
    for number, row in enumerate(_rows(folder / RAD_QUESTIONS), 1):
        if not isinstance(row, Mapping):
            raise FormatError(f"entry {number} of '{RAD_QUESTIONS}' is no object")
        texts = {key: _text(row.get(key), key, number) for key in ("image_name", "question", "answer", "image_organ")}
        closed = _text(row.get("answer_type"), "answer_type", number).upper() == "CLOSED"
        sort = _text(row.get("question_type"), "question_type", number).lower()
        name = Path(texts["image_name"])
        if name.name != texts["image_name"]:
            raise FormatError(f"entry {number} of '{RAD_QUESTIONS}': image_name '{printable(name)}' is no file name")
        path = folder / RAD_IMAGES / name
        if path not in absent:
            absent[path] = not path.is_file()
        answer = texts["answer"].lower().rstrip(".")
        kind = "yes or no" if answer in YES_NO else f"{'closed' if closed else 'open'} {sort}"
        asked.append(Asked(FileItem(path), texts["question"], answer, kind, closed, texts["image_organ"].lower()))
    missing = [path for path, is_absent in absent.items() if is_absent]
    if missing:
        raise DataError(f"{len(missing)} images of VQA-RAD are missing, the first is '{printable(missing[0])}'")
    return VisualQuestions("vqarad", tuple(asked))


def _rows(path: Path) -> Sequence[Any]:
    rows = read_json(path, LIMITS)
    if not isinstance(rows, list) or not rows:
        raise FormatError(f"'{printable(path)}' is no list of questions")
    return rows


def _text(value: object, what: str, number: int | None = None) -> str:
    """Return ``value`` in one line of text."""
    entry = "" if number is None else f"entry {number}: "
    text = " ".join(str(value).split()) if isinstance(value, str | int | float) else ""
    if not text:
        raise FormatError(f"{entry}it has no {what}")
    if len(text) > LONGEST:
        raise FormatError(f"{entry}the {what} has {len(text)} characters, where {LONGEST} are allowed")
    check_string(text)
    return text
