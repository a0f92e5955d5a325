from __future__ import annotations

import json

import pytest

from promptfed.errors import ConfigError
from promptfed.prompts.attributes import attributes_of, check_described, read_attributes

CATS = {"Big_cat": ["whiskers", "a tail"], "dog": ["a nose"]}


def test_a_file_is_read_once_and_travels_as_what_it_says(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(CATS))
    options = {"attributes": f"file:{tmp_path / 'a.json'}", "n_visual": 4}
    assert read_attributes(options) == {"attributes": CATS, "n_visual": 4}
    assert read_attributes({"attributes": "templates"}) == {"attributes": "templates"}
    assert read_attributes({"attributes": CATS}) == {"attributes": CATS}


def test_a_class_without_attributes_has_the_templates_with_its_name():
    found = attributes_of(CATS, ["big cat", "red_ant"], ["a {}.", "{}"])
    assert found == [["whiskers", "a tail"], ["a red ant.", "red ant"]]
    assert attributes_of("templates", ["dog"], ["a {}.", "a {}."]) == [["a dog."]]


def test_classes_that_the_file_leaves_out_are_named():
    check_described(CATS, ["dog", "big_cat"])
    check_described("templates", ["ant"])
    with pytest.raises(ConfigError, match=r"describes no 'ant' \(1 of 2 classes lack a list of texts\)"):
        check_described(CATS, ["dog", "ant"])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[1]", "holds no JSON object of class names"),
        ("{}", "holds no JSON object"),
        ('{"cat": []}', "'cat' in .* must have a list of 1 to 64 texts"),
        ('{"cat": "whiskers"}', "must have a list"),
        ('{"cat": ["a\\tb"]}', "printable"),
        ('{"cat": ["a"', "cannot be read"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, why):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ConfigError, match=why) as caught:
        read_attributes({"attributes": f"file:{tmp_path / 'a.json'}"})
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_bare_path_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_attributes({"attributes": f"file:{tmp_path / 'none.json'}"})
    with pytest.raises(ConfigError, match="'templates' or 'file:PATH'"):
        read_attributes({"attributes": "a.json"})


def test_no_file_is_read_because_a_run_names_it():
    with pytest.raises(ConfigError, match="never because a run or a bundle names it"):
        attributes_of("file:/etc/passwd", ["dog"], ["{}"])
