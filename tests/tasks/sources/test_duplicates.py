"""Copies of examples: once where they could stand in training and test, refused where they have two labels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from promptfed.errors import DataError
from promptfed.examples.base import Sample, TextItem
from promptfed.tasks.blackbox_text import load_texts
from promptfed.tasks.cot import load_questions
from promptfed.tasks.sources import checked, csv_file, load_source
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.duplicates import without_duplicates
from promptfed.tasks.sources.tables import Columns
from promptfed.tasks.sources.torchvision_data import raw_ids


def made(*rows: tuple[str, int, str, str]) -> Source:
    """``(content, label, domain, split)`` of each example, and many others."""
    given = [Sample(TextItem(text, f"row {i}"), *rest) for i, (text, *rest) in enumerate(rows)]
    more = [Sample(TextItem(f"other {i}"), i % 2, split=rows[0][3] and ("train", "test")[i % 2]) for i in range(400)]
    return Source("made", ("cat", "dog"), (*given, *more))


def left(source: Source, strict: bool = False) -> tuple[list[str], tuple[str, ...]]:
    found = without_duplicates(source, [s.item.content_id() for s in source.samples], strict=strict)
    return [s.item.name for s in found.samples if s.item.name.startswith("row")], found.notes


def test_a_content_in_training_and_test_stays_in_test_alone() -> None:
    rows, notes = left(made(("a", 0, "", "train"), ("a", 0, "", "test"), ("b", 1, "", "train"), ("b", 1, "", "val")))
    assert rows == ["row 1", "row 3"]
    assert notes == (
        "not trained on, since they stand in the test or validation split too: 2; the first is row 0, the same "
        "as row 1",
    )
    rows, _ = left(made(("a", 0, "x", "train"), ("a", 0, "y", "test"), ("a", 0, "x", "test"), ("a", 0, "y", "train")))
    assert rows == ["row 1", "row 2"]


def test_copies_whose_split_is_to_be_drawn_stay_once_and_others_once_a_domain() -> None:
    rows, notes = left(made(("a", 0, "x", ""), ("b", 0, "", ""), ("a", 0, "y", ""), ("a", 0, "x", "")))
    assert rows == ["row 0", "row 1"]
    assert notes == ("left out as copies of others: 2; the first is row 2, the same as row 0",)
    rows, _ = left(made(("a", 0, "x", "train"), ("a", 0, "y", "train"), ("a", 0, "x", "train")))
    assert rows == ["row 0", "row 1"]
    without_test = Source("s", ("cat", "dog"), tuple(Sample(TextItem("a", f"row {i}"), 0, split="train") for i in "12"))
    assert left(without_test)[0] == ["row 1"]


def test_few_contents_with_two_labels_are_left_out_and_many_are_refused() -> None:
    torn = made(("a", 0, "", ""), ("a", 1, "", ""), ("b", 1, "", ""))
    rows, notes = left(torn)
    assert rows == ["row 2"]
    assert notes == (
        "left out, since their content has two labels: 2; row 0 is 'cat', and the same content in row 1 is 'dog'",
    )
    with pytest.raises(DataError, match="row 0 is 'cat', and the same content in row 1 is 'dog': one example has one"):
        left(torn, strict=True)
    many = [(f"t{i}", label, "", "") for i in range(5) for label in (0, 1)]
    with pytest.raises(DataError, match=r"\(5 contents have two labels\)"):
        left(made(*many))


def colours(folder: Path, files: dict[str, tuple[int, int, int]]) -> None:
    for name, colour in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), colour).save(folder / name)


def test_folders(tmp_path: Path) -> None:
    tmp_path = tmp_path / "data"
    files = {f"{split}/{c}/{i}.png": (i, s, k) for s, split in enumerate(("train", "test"))
             for k, c in enumerate(("cat", "dog")) for i in range(3)}  # fmt: skip
    colours(tmp_path, files)
    colours(tmp_path, {"train/cat/leak.png": (0, 1, 0)})
    source = load_source(f"folder:{tmp_path}")
    assert len(source.samples) == 12
    assert "leak.png, the same as" in source.notes[-1]
    assert load_source(f"folder:{tmp_path}") == source  # from what is remembered
    colours(tmp_path, {"test/dog/torn.png": (0, 0, 0)})
    with pytest.raises(DataError, match=r"torn\.png is 'dog', and the same content in .*0\.png is 'cat'"):
        load_source(f"folder:{tmp_path}")


def test_a_csv_that_lists_an_image_twice(tmp_path: Path) -> None:
    colours(tmp_path, {f"{i}.png": (i, 0, 0) for i in range(6)})
    rows = [f"{i}.png,{('cat', 'dog')[i % 2]},{'ab'[i // 3]}" for i in range(6)]
    for more, why in (("0.png,dog,a", r"0\.png is 'cat', .* is 'dog'"), ("./5.png,cat,b", r"5\.png is 'dog'")):
        (tmp_path / "who.csv").write_text("\n".join(["path,label,client", *rows, more]))
        with pytest.raises(DataError, match=why):
            checked(csv_file.source(str(tmp_path / "who.csv")))
    (tmp_path / "who.csv").write_text("\n".join(["path,label,client", *rows, "0.png,cat,b"]))
    source = checked(csv_file.source(str(tmp_path / "who.csv")))
    assert [s.domain for s in source.samples] == list("aaabbb")


def test_tables_of_texts_and_questions(tmp_path: Path) -> None:
    for kind, head, row in (("tsv", "text\tlabel\n", "{}\t{}\n"), ("jsonl", "", '{{"text": "{}", "label": "{}"}}\n')):
        home = tmp_path / kind
        home.mkdir()
        for split, texts in (("train", "abcd"), ("test", "cefg")):
            lines = "".join(row.format(t, "pos" if t in "ace" else "neg") for t in texts)
            (home / f"{split}.{kind}").write_text(head + lines)
        source = load_texts(f"{kind}:{home}", Columns())
        assert sorted((s.item.name, s.split) for s in source.samples if s.item.text == "c") == [  # type: ignore[attr-defined]
            (f"test.{kind}:{2 if head else 1}", "test")
        ]
        (home / f"train.{kind}").write_text(head + row.format("a", "pos") + row.format("a", "neg"))
        with pytest.raises(DataError, match="one example has one label"):
            load_texts(f"{kind}:{home}", Columns())
    (tmp_path / "q.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n' * 3 + '{"question": "2?", "answer": "2"}')
    assert len(load_questions(f"jsonl:{tmp_path / 'q.jsonl'}", "question", "answer").samples) == 2


def test_the_bundled_texts_have_no_copies() -> None:
    for name in ("reviews", "questions", "requests"):
        assert load_texts(f"texts:{name}", Columns()).notes == ()


def test_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    colours(tmp_path, {f"{i}.png": (i, 0, 0) for i in range(5)})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})

    def table(*rows: tuple[int, int]) -> object:
        values = {"image": [str(tmp_path / f"{i}.png") for i, _ in rows], "label": [label for _, label in rows]}
        return datasets.Dataset.from_dict(values, features)

    both = datasets.DatasetDict({"train": table((0, 0), (1, 1), (2, 0)), "test": table((2, 0), (3, 1))})
    both.save_to_disk(str(tmp_path / "both"))
    source = load_source(f"hf:{tmp_path / 'both'}")
    assert [s.split for s in source.samples] == ["train", "train", "test", "test"]
    table((0, 0), (1, 1), (0, 1)).save_to_disk(str(tmp_path / "torn"))
    with pytest.raises(DataError, match="one example has one label"):
        load_source(f"hf:{tmp_path / 'torn'}")


class Listed(SimpleNamespace):
    def __len__(self) -> int:
        return self.count


def test_torchvision_data_are_compared_without_decoding_them(tmp_path: Path) -> None:
    arrays = np.array([[1, 2], [3, 4], [1, 2]], np.uint8)
    ids = raw_ids([Listed(count=3, data=arrays), Listed(count=2, data=arrays[1:])])
    assert ids[0] == ids[2] == ids[4] != ids[1] == ids[3]
    for name, data in (("a", b"x" * 5000), ("b", b"x" * 5000), ("c", b"x" * 4999 + b"y"), ("d", b"z")):
        (tmp_path / name).write_bytes(data)
    files = [tmp_path / name for name in "abcd"]
    a, b, c, d = raw_ids([Listed(count=4, _image_files=files)])
    assert a == b
    assert len({a, c, d}) == 3
    assert raw_ids([Listed(count=4, samples=[(str(f), 0) for f in files])]) == (a, b, c, d)
    assert raw_ids([Listed(count=4)]) == ()
