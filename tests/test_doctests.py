"""The examples in docstrings run, and say what comes out. Only modules that have some are imported."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"promptfed": "promptfed", "tasks": "promptfed.tasks", "blackbox": "promptfed.blackbox"}


def _module(folder: str, path: Path) -> str:
    parts = path.relative_to(ROOT / folder).with_suffix("").parts
    return ".".join([PACKAGES[folder], *(part for part in parts if part != "__init__")])


MODULES = [
    _module(folder, path)
    for folder in PACKAGES
    for path in sorted((ROOT / folder).rglob("*.py"))
    if ">>> " in path.read_text() and not (folder == "promptfed" and path.relative_to(ROOT).parts[1] in PACKAGES)
]


def test_some_modules_have_examples() -> None:
    assert {"promptfed.prompt_state", "promptfed.tasks.partitioning", "promptfed.aggregators.mean"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_true(name: str) -> None:
    failed, tried = doctest.testmod(import_module(name))
    assert tried > 0
    assert failed == 0


def test_no_example_is_skipped() -> None:
    """An example that cannot run is prose or a code block without prompts."""
    skipping = "doctest: " + "+SKIP"
    every = [path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")]
    assert [path.name for path in every if skipping in path.read_text()] == []
