"""An error that tells how to install a package is a MissingPackageError, so that a suite leaves its entry out."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import promptfed

PACKAGE = Path(promptfed.__file__).parent
INSTALLS = "pip install"


def sources() -> Iterator[str]:
    """Yield the text of every module; folders of the package may be links."""
    for folder, _, files in os.walk(PACKAGE, followlinks=True):
        for name in files:
            if name.endswith(".py"):
                yield (Path(folder) / name).read_text(encoding="utf-8")


def texts(node: ast.AST) -> str:
    """Return all strings of an expression together."""
    return " ".join(n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def variables_that_install(tree: ast.AST) -> set[str]:
    """Return the variables that are set to a text with an install command."""
    return {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and INSTALLS in texts(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def plain_errors_that_install(text: str) -> list[str]:
    """Return each ``raise ConfigError(...)`` whose message, or a variable in it, has an install command."""
    if INSTALLS not in text or "ConfigError(" not in text:
        return []
    tree = ast.parse(text)
    variables = variables_that_install(tree)
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return [
        ast.unparse(call)
        for call in raised
        if ast.unparse(call.func) == "ConfigError"
        and (INSTALLS in texts(call) or variables & {n.id for n in ast.walk(call) if isinstance(n, ast.Name)})
    ]


def test_no_plain_error_of_an_option_tells_how_to_install() -> None:
    modules = list(sources())
    assert any("MissingPackageError(" in text for text in modules)
    assert [error for text in modules for error in plain_errors_that_install(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        'raise ConfigError(f"x needs y ({error}): pip install " "\'promptfed[y]\'")',
        "INSTALL = \"pip install 'promptfed[y]'\"\nraise ConfigError(f'x needs y: {INSTALL}')",
    ],
)
def test_what_is_looked_for_is_seen(text: str) -> None:
    assert len(plain_errors_that_install(text)) == 1
    assert plain_errors_that_install(text.replace("ConfigError", "MissingPackageError")) == []
