"""The layers of the house: folders import downward only, so the graph of their imports has no circle."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOMES = {"promptfed": "promptfed", "tasks": "promptfed.tasks", "blackbox": "promptfed.blackbox"}


def modules() -> dict[str, Path]:
    """Module name -> its file, for all code that is shipped."""
    files = {}
    for folder, package in HOMES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            files[".".join([package, *parts]).removesuffix(".__init__")] = path
    return files


def folder_of(module: str, files: dict[str, Path]) -> str:
    """The package that ``module`` lies in; a module at the top of promptfed stands for itself."""
    is_package = files[module].name == "__init__.py"
    return module if is_package or module.count(".") == 1 else module.rpartition(".")[0]


def imports_of(path: Path, files: dict[str, Path]) -> set[str]:
    """Modules of promptfed that a file imports anywhere: at its top, inside functions, for type checkers."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in files else node.module for name in inner}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & files.keys()


def folder_graph() -> dict[str, set[str]]:
    """Folder -> the folders that it imports from."""
    files, graph = modules(), defaultdict(set)
    for module, path in files.items():
        here = folder_of(module, files)
        if module == "promptfed":  # its names are imported for type checkers, and loaded when they are first asked for
            continue
        graph[here] |= {folder_of(name, files) for name in imports_of(path, files)} - {here, "promptfed"}
    return graph


def test_folders_import_downward_only() -> None:
    graph = folder_graph()
    assert len(graph) > 50
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, naming the circle
    for lower, upper in (
        ("promptfed.types", "promptfed.aggregators"),
        ("promptfed.backbones", "promptfed.method"),
        ("promptfed.blackbox.oracles", "promptfed.method"),
        ("promptfed.method", "promptfed.prompts"),
        ("promptfed.prompts", "promptfed.methods"),
        ("promptfed.prompts", "promptfed.tasks"),
        ("promptfed.engines", "promptfed.experiment"),
        ("promptfed.experiment", "promptfed.export"),
        ("promptfed.export", "promptfed.api"),
    ):
        assert order.index(lower) < order.index(upper), (lower, upper)


def test_a_circle_would_be_seen(tmp_path: Path) -> None:
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("def f():\n    from promptfed.b import other\n")
    other.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import promptfed.a.one\n")
    files = {"promptfed.a.one": one, "promptfed.b.other": other}
    assert imports_of(one, files) == {"promptfed.b.other"}
    assert imports_of(other, files) == {"promptfed.a.one"}
    assert folder_of("promptfed.a.one", files) == "promptfed.a"
