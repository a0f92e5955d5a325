"""`promptfed list options` and docs/configuration.md show every option, as the models define it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from promptfed.commands.configuration_page import configuration_page
from promptfed.commands.flags import MODELS
from promptfed.commands.option_rows import OptionRow, registries, section_rows
from promptfed.method import METHODS
from promptfed.privacy_options import PrivacyOptions

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


class Some(BaseModel):
    lr: float = Field(0.01, gt=0, lt=1, description="rate")
    names: tuple[str, ...] | None = Field(None, description="some")
    kind: Literal["a", "b"] = Field("a", description="which")
    n: int | str = 3


def test_a_row_says_type_bounds_choices_and_default():
    assert section_rows("method", Some) == [
        OptionRow("method.lr", "number > 0, < 1", "0.01", "rate"),
        OptionRow("method.names", "list of text", "none", "some"),
        OptionRow("method.kind", "a, b", "a", "which"),
        OptionRow("method.n", "integer or text", "3", ""),
    ]


def test_all_options_of_a_run_are_listed(promptfed):
    found = json.loads(promptfed("list", "options", "--json").out)
    rows = {row["name"].removeprefix("oracle."): row for table in found.values() for row in table}
    of_privacy = {f"privacy.{name}" for name in PrivacyOptions.model_fields}
    assert set(rows) == {name for model in MODELS for name in model.model_fields} | of_privacy
    assert rows["rounds"]["resume"] == "larger"
    assert rows["backbone"]["resume"] == "moved"
    assert rows["method"]["values"] == "promptfed list methods"
    assert rows["precision"] | {"meaning": ""} == {
        "name": "precision", "values": "float32, bfloat16, float16, int8, int4", "default": "float32", "meaning": "",
        "flag": "--precision", "resume": "",
    }  # fmt: skip
    assert rows["plugins"]["resume"] == rows["max_usd"]["values"].partition(" ")[2].partition(">")[0] == ""


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("place", ["Where the work runs", "client_seconds", "resume"]),
        ("fedprox", ["method fedprox", "method.mu"]),
        ("fedamp", ["method fedamp", "aggregator fedamp"]),
        ("clip-domains", ["task clip-domains", "task.held_out"]),
        ("oracle", ["oracle.max_calls", "oracle.concurrency"]),
        ("personalize", ["promptfed personalize", "l2_to_global"]),
        ("zero_shot", ["method zero_shot", "no options"]),
    ],
)
def test_one_section_or_one_method_can_be_listed(promptfed, monkeypatch, name, texts):
    monkeypatch.setenv("COLUMNS", "120")
    said = promptfed("list", "options", name)
    assert said.code == 0
    assert all(text in said.out for text in texts)


def test_an_unknown_section_names_the_nearest(promptfed):
    said = promptfed("list", "options", "fedprx")
    assert said.code == 2
    assert "Did you mean 'fedprox'?" in said.err


def test_the_page_of_all_options_is_current():
    assert PAGE.read_text(encoding="utf-8") == configuration_page(), "run scripts/make_configuration_page.py"


def test_every_row_of_the_page_is_one_line():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| `")]
    assert all(line.endswith(" |") for line in rows)
    stops = [row.split(" | ")[2] for row in rows if row.startswith("| `task.stop`")]
    assert "\\\\n" in stops, "an end of line is shown as a user would type it"


def test_the_page_has_every_method_and_every_option_says_what_it_is():
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"### {name}\n" in page for name in METHODS if METHODS.origin(name) == "promptfed")
    assert all(len(line) <= 100 for line in page.splitlines() if not line.startswith("|"))
    for section, registry in registries().items():
        for name in registry:
            assert all(row.meaning for row in section_rows(section, registry[name].Config)), name
