"""What a user may name, and what is said of the rest before a run begins."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import promptfed as pf
from promptfed.errors import ConfigError
from promptfed.observers.base import Observer
from promptfed.observers.choose import build_observers


def test_names_options_and_objects_are_all_observers() -> None:
    class Mine(Observer):
        """Is told, and keeps nothing."""

    path = "/tmp/some file.jsonl"
    by_name, by_object = build_observers([f"jsonl:path={path}", Mine()])
    assert (by_name.label, by_object.label) == ("jsonl", "Mine")
    assert by_name.config.model_dump()["path"] == path
    [by_mapping] = build_observers({"jsonl": {"path": path}})
    assert by_mapping.config == by_name.config
    assert build_observers("jsonl")[0].config == build_observers({"jsonl": None})[0].config


class Failing(Observer):
    def check(self) -> None:
        raise ZeroDivisionError("no\nway")


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        ("jsnol", "unknown observer 'jsnol'. Did you mean 'jsonl'"),
        (["jsonl", {"jsonl": {"path": "x"}}], "'jsonl' is named twice"),
        ("jsonl:x.txt", "must look like NAME or NAME:KEY=VALUE"),
        ("jsonl:place=x", "unknown option of observer jsonl: 'place'"),
        ("jsonl:path=[", "the value of path is not YAML"),
        ([7], "observer 7: give a name"),
        (7, "observer 7: give a name"),
        (None, "observer None: give a name"),
        (Observer, "give a name"),
        ({"jsonl": 7}, "a mapping of its options"),
        ({7: {}}, "a mapping of its options"),
        (Failing(), "observer 'Failing' cannot be used here: ZeroDivisionError"),
    ],
)
def test_what_is_no_observer_is_one_line(choice: Any, why: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_observers(choice)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_package_is_said_before_the_run_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlflow" else there(name, *rest)
    )
    with pytest.raises(
        ConfigError, match=r"needs the package mlflow, which is missing: pip install 'promptfed\[mlflow\]'"
    ):
        pf.train(folder=tmp_path / "run", observers=["jsonl", "mlflow"])
    assert not (tmp_path / "run").exists()
