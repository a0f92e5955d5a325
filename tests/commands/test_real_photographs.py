"""The command line on real photographs, where they are at hand (PROMPTFED_DATA)."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow


def test_caltech_with_lit_learns(photos, promptfed, tmp_path):
    data = photos / "caltech101_40"
    if not data.is_dir():
        pytest.skip("no caltech101_40")
    # The papers' protocol, shortened: with all 40 classes, 20 rounds and a Dirichlet split this takes 20 minutes.
    half = ["--hold-out-classes", "0.5", "--partition", "classes", "--baselines", "zero_shot"]
    half += ["--rounds", "4", "--clients", "4", "--shots", "4"]
    said = promptfed("train", "--data", f"folder:{data}", "--backbone", "lit", *half, "--run", tmp_path / "r", "--json")
    assert said.code == 0, said.err
    metrics = json.loads(said.out)
    assert metrics["zero_shot"]["base"] >= 0.50
    assert metrics["method"]["base"] >= 0.70


def test_pacs_runs_with_one_domain_a_client(photos, promptfed, tmp_path):
    data = photos / "pacs"
    if not data.is_dir():
        pytest.skip("no pacs")
    words = ["--data", f"folder:{data}", "--backbone", "lit", "--partition", "domain", "--baselines", "zero_shot"]
    words += ["--rounds", "3", "--shots", "4"]
    said = promptfed("train", *words, "--run", tmp_path / "r", "--json")
    assert said.code == 0, said.err
    metrics = json.loads(said.out)
    assert metrics["method"]["base"] > metrics["zero_shot"]["base"]
    table = json.loads((tmp_path / "r" / "partition.json").read_text())
    assert [row["name"] for row in table["clients"]] == ["art painting", "cartoon", "photo", "sketch"]
