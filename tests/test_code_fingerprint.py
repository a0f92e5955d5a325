"""The same code has the same fingerprint in every process; other code, or other values that it names, another."""

from __future__ import annotations

import functools
import importlib
import re
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from promptfed.code_fingerprint import code_sha256

LEVEL = 1
WORDS = {"good", "fine"}


def helper() -> int:
    return LEVEL


def scores() -> int:
    return helper() + 1


def words() -> set[str]:
    return WORDS


class Base:
    def level(self) -> int:
        return helper()


class Slotted(Base):
    __slots__ = ("held",)

    def __init__(self, held: Any) -> None:
        self.held = held

    def __call__(self) -> Any:
        return self.held, WORDS


def made(value: Any) -> Any:
    def inner() -> Any:
        return value

    return inner


@pytest.mark.parametrize(
    "values",
    [
        *((1, 2), ("a", "b"), ([1], [2]), (np.zeros(2), np.ones(2)), (torch.zeros(2), torch.ones(2))),
        *(({"a", "b"}, {"a", "c"}), (frozenset("a"), frozenset("b")), (deque([1]), deque([2])), (range(2), range(3))),
        *((Path("a"), Path("b")), (re.compile("a"), re.compile("b")), (1j, 2j), (np.float32(1), np.float32(2))),
        (functools.partial(max, 1), functools.partial(max, 2)),
        (functools.partial(max, 1), functools.partial(min, 1)),
        (Slotted(1), Slotted(2)),
    ],
)
def test_what_a_closure_holds_counts(values: tuple[Any, Any]) -> None:
    one, other = map(made, values)
    assert code_sha256(one) == code_sha256(made(values[0])) != code_sha256(other)


def test_what_its_module_says_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_sha256(scores)
    monkeypatch.setattr(sys.modules[__name__], "LEVEL", 2)
    assert code_sha256(scores) != before


@pytest.mark.parametrize("thing", [words, functools.partial(words), functools.cache(words), Slotted(0)])
def test_a_set_of_its_module_counts(thing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_sha256(thing)
    monkeypatch.setattr(sys.modules[__name__], "WORDS", {"fine", "good"})
    assert code_sha256(thing) == before
    monkeypatch.setattr(sys.modules[__name__], "WORDS", {"good", "bad"})
    assert code_sha256(thing) != before


def test_what_a_callable_object_s_base_class_names_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_sha256(Slotted(0))
    monkeypatch.setattr(sys.modules[__name__], "LEVEL", 2)
    assert code_sha256(Slotted(0)) != before


def test_what_a_partial_or_an_object_holds_counts() -> None:
    given = [functools.partial(made, 1), functools.partial(made, 2), functools.partial(helper), Slotted(1), Slotted(2)]
    given += [lambda: 1, lambda: 2]  # of one line
    assert len(set(map(code_sha256, given))) == len(given)


def test_weights_count() -> None:
    class Scorer:
        def __init__(self) -> None:
            self.model = torch.nn.Linear(2, 2)

        def __call__(self) -> Any:
            return self.model

        def score(self) -> Any:
            return self.model

    scorer = Scorer()
    before = code_sha256(scorer), code_sha256(scorer.score)
    torch.nn.init.zeros_(scorer.model.weight)
    assert code_sha256(scorer) != before[0]
    assert code_sha256(scorer.score) != before[1]


CODE = """
def score(p, t, k, scale=2):
    return {'a', 'b', 'c', 'd'} and scale * len(p) if p in {'x', 'y', 'z'} else 0
"""


@pytest.mark.slow
def test_it_is_the_same_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its source, and of the byte code alone."""
    (tmp_path / "own_score.py").write_text(CODE)
    names: dict[str, Any] = {}
    exec(CODE, names)
    other: dict[str, Any] = {}
    exec(CODE.replace("'z'", "'w'"), other)
    assert code_sha256(other["score"]) != code_sha256(names["score"])
    monkeypatch.syspath_prepend(tmp_path)
    here = [code_sha256(importlib.import_module("own_score").score), code_sha256(names["score"])]
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from promptfed.code_fingerprint import code_sha256"
    program += f"\nfrom own_score import score; print(code_sha256(score))\nexec({CODE!r})\nprint(code_sha256(score))"
    there = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True).stdout
    assert there.split() == here
    assert here[0] != here[1]
