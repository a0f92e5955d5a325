"""The code in the documentation does what the documentation says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from promptfed.method import METHODS
from promptfed.types import NO_PROMPT, Broadcast

ROOT = Path(__file__).parent.parent


def test_the_method_of_the_architecture_page_works(setup, toy_task):
    page = (ROOT / "docs" / "architecture.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, re.S)[0]
    try:
        exec(compile(code, "docs/architecture.md", "exec"), {"__name__": "shrink"})
        kind = METHODS["shrink"]
        method = kind(kind.Config(pull=0.5), setup)
        plain = METHODS["promptfl"](METHODS["promptfl"].Config(), setup)
        start = Broadcast(1, method.init_shared())
        update, kept = method.train(start, toy_task.clients[2], NO_PROMPT)
        whole, _ = plain.train(start, toy_task.clients[2], NO_PROMPT)
    finally:
        METHODS._entries.pop("shrink", None)
    assert torch.equal(update.shared["ctx"], 0.5 * whole.shared["ctx"])
    assert len(kept) == 0


@pytest.mark.parametrize("name", ["idea", "models", "round", "figures", "privacy"])
def test_letters_of_a_drawing_are_large_enough_on_a_phone(name):
    drawing = (ROOT / "docs" / "images" / f"{name}.svg").read_text()
    width = float(re.search(r'viewBox="0 0 ([\d.]+) ', drawing)[1])
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: (?:\w+ )?([\d.]+)px", drawing)]
    assert sizes
    assert min(sizes) * 360 / width >= 11


def test_every_file_that_the_docs_name_is_there():
    for page in (ROOT / "docs").glob("*.md"):
        for path in re.findall(
            r"`((?:promptfed|tasks|blackbox|tests|scripts|docs)/[\w/]+\.(?:py|md))`", page.read_text()
        ):
            made_up = path.endswith("shrink.py")
            assert made_up or (ROOT / path).exists(), f"{page.name} names {path}"


@pytest.mark.parametrize("page", ["README.md", pytest.param("docs/python.md", marks=pytest.mark.slow)])
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.radial_gradient("L").convert("RGB").save("photo.jpg")
    names = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S):
        exec(compile(block, page, "exec"), names)
    printed = capsys.readouterr().out
    assert "'cat'" in printed
    assert (tmp_path / "bundle" / "promptfed_config.json").is_file()


COMMAND = re.compile(r"^(?: {4}|\$ )((?:promptfed|pip) .*)$", re.M)


@pytest.mark.parametrize("page", sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")))
def test_a_command_can_be_pasted_into_a_shell(page):
    """A remark behind it begins with #; brackets and braces, which zsh takes for patterns, are quoted."""
    for line in COMMAND.findall((ROOT / page).read_text(encoding="utf-8")):
        command = re.split(r"\s#\s", line)[0].rstrip(" \\")
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "q", command)
        assert not re.search(r"\S {2,}\S", bare), line
        assert "'" in bare or not re.search(r"=[\[{]|\w\[\w", bare), line
