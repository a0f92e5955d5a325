"""Public texts: bundled ones of the bundled classes, or a file that is read once."""

from __future__ import annotations

import csv

import pytest

from promptfed.blackbox.text.public_texts import agreed_questions, read_questions
from promptfed.config import RunConfig
from promptfed.errors import ConfigError
from promptfed.resolve import resolve
from promptfed.tasks.sources.bundled_texts import FOLDER, FORMS, NAMES


@pytest.mark.parametrize("name", NAMES)
def test_bundled_public_texts_are_none_of_the_labelled_ones(name):
    form = FORMS[name]
    texts = agreed_questions("bundled", list({**form.words, **form.descriptions}))
    with (FOLDER / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
        labelled = {row["text"].casefold() for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    assert len(texts) >= 40
    assert not {text.casefold() for text in texts} & labelled


def test_other_classes_need_a_file():
    with pytest.raises(ConfigError, match=r"no public texts .* 'cat', 'dog'.*method\.questions=file:PATH"):
        agreed_questions("bundled", ["cat", "dog"])


def test_a_file_is_read_once_and_its_lines_go_on(tmp_path):
    file = tmp_path / "public.txt"
    file.write_text("one  text\n\nanother\none text\n")
    assert read_questions({"questions": f"file:{file}"}) == {"questions": ["one text", "another"]}
    config = RunConfig(task="blackbox-text", method="fedicl", method_options={"questions": f"file:{file}"})
    assert resolve(config).method_options["questions"] == ["one text", "another"]
    assert read_questions({"questions": "bundled"}) == {"questions": "bundled"}
    assert read_questions({}) == {}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("file:/nowhere/x.txt", "name|no texts"),
        ("x.txt", "write 'bundled', a list, or file:PATH"),
        (("one",), "1 different questions"),
        (("one", "two\x07"), "printable"),
        (("one", "a" * 2001), "2,000"),
        (("one", " "), "one text a line"),
    ],
)
def test_what_is_no_public_text_is_refused_in_a_line(option, message):
    with pytest.raises(ConfigError, match=message) as error:
        agreed_questions(option, ["positive", "negative"])
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.txt.*cannot be read"):
        read_questions({"questions": f"file:{tmp_path / 'none.txt'}"})
