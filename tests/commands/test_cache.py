"""`promptfed cache` shows sizes by kind, and removes nothing that nobody agreed to."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path))
    for name in ("features/fp/images/a.safetensors", "oracle/answers.sqlite", "towers/ab/weights.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"x" * 2000)
    return tmp_path


def test_info_says_where_and_how_much(promptfed, folder):
    said = promptfed("cache", "info")
    assert said.code == 0, said.err
    assert f"cache in {folder}" in said.out
    assert "image-features" in said.out
    assert "features may take 5.0 GB" in said.out
    facts = json.loads(promptfed("cache", "info", "--json").out)
    assert facts["kinds"]["answers"]["bytes"] == 2000
    assert facts["kinds"]["models"]["entries"] == 0
    assert promptfed("cache", "info", "-q").out == f"{folder}\n"


def test_clean_asks_or_needs_yes_and_leaves_what_was_paid_for(promptfed, folder, monkeypatch):
    said = promptfed("cache", "clean")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "say --yes, or look first by --dry-run" in said.err
    said = promptfed("cache", "clean", "--dry-run")
    assert "would remove 2 entries, 4 kB (" in said.out
    assert promptfed("cache", "clean", "--older-than", "1d", "--yes").out == f"removed nothing from {folder}\n"
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, left in ((False, 3), (True, 1)):
        monkeypatch.setattr("typer.confirm", lambda text, answer=answer: answer)
        assert promptfed("cache", "clean").code == 0
        assert sum(path.is_file() for path in folder.rglob("[!l]*")) == left
    assert (folder / "oracle/answers.sqlite").exists()
    said = promptfed("cache", "clean", "--kind", "features,answers", "--yes", "--json")
    assert json.loads(said.out) == {"removed": True, "entries": 1, "bytes": 2000, "left": []}
    assert promptfed("cache", "clean", "--kind", "none").code == 2
