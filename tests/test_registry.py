"""A registry finds what the modules of its package registered, and says what it knows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from promptfed.errors import ConfigError
from promptfed.registry import Registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package whose module ``apples`` registers two things on its first import, and counts the imports."""
    name = f"fruit_{tmp_path.name}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(
        f"from promptfed.registry import Registry\nFRUIT = Registry('fruit', '{name}')\nimports = []\n"
    )
    (folder / "apples.py").write_text(
        f"from {name} import FRUIT, imports\n"
        "imports.append('apples')\n"
        "@FRUIT.register('boskoop')\n"
        "def boskoop(): return 'sour'\n"
        "@FRUIT.register('gala')\n"
        "def gala(): return 'sweet'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_modules_are_found_on_first_use_and_once(package: str) -> None:
    fruit = __import__(package)
    assert fruit.imports == []
    assert fruit.FRUIT["gala"]() == "sweet"
    assert list(fruit.FRUIT) == ["boskoop", "gala"]
    assert fruit.imports == ["apples"]
    assert f"{package}.apples" in sys.modules


def test_an_unknown_name_is_answered_with_the_nearest_and_all(package: str) -> None:
    registry = __import__(package).FRUIT
    with pytest.raises(ConfigError, match=r"unknown fruit 'galla'\. Did you mean 'gala'\? Known: boskoop, gala\."):
        registry["galla"]
    with pytest.raises(ConfigError, match=r"unknown fruit 'zzz'\. Known: boskoop, gala\."):
        registry["zzz"]


def test_a_name_cannot_be_taken_twice(package: str) -> None:
    registry: Registry[object] = __import__(package).FRUIT
    with pytest.raises(ValueError, match="fruit 'gala' is registered twice"):
        registry["gala"] and registry.register("gala")(object())
    assert registry["gala"]() == "sweet"  # type: ignore[operator]


def test_the_decorator_hands_back_what_it_registered() -> None:
    registry: Registry[type] = Registry("method", "promptfed.engines")

    @registry.register("one")
    class One:
        pass

    assert registry["one"] is One
    assert One.__name__ == "One"


def test_real_aggregators_are_found() -> None:
    from promptfed.aggregators.base import AGGREGATORS

    assert {"mean", "uniform"} <= set(AGGREGATORS)
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        AGGREGATORS["meen"]
