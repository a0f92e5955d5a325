"""Gemma 3 270M in this process, and the same file behind the HTTP server."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from promptfed.blackbox.oracle_factory import load_oracle
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.errors import BackboneError, ConfigError
from promptfed.examples.base import TextItem
from promptfed.language_models import gemma
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import PromptTemplate

FORM = PromptTemplate(template="{{ prompt }} {{ text }} It was", words={"positive": "great", "negative": "terrible"})
CLASSES = ("negative", "positive")
REVIEWS = (
    ("a warm and funny film with two performances that stay with you", 1),
    ("the jokes are stale and the ending makes no sense at all", 0),
    ("i have rarely been so moved by so simple a story", 1),
    ("two hours of shouting that feel like four", 0),
    ("beautifully shot, cleverly written and over too soon", 1),
    ("a dull, lifeless copy of a much better picture", 0),
    ("the cast clearly enjoys every minute and so did we", 1),
    ("nothing here is worth the price of the ticket", 0),
)
ITEMS = [TextItem(text) for text, _ in REVIEWS]
LABELS = torch.tensor([label for _, label in REVIEWS])
needs_gemma = pytest.mark.skipif(importlib.util.find_spec(gemma.PACKAGE) is None, reason="no promptfed[gemma]")


@pytest.fixture(scope="module")
def oracle(gemma_once: None) -> Oracle:
    return load_oracle("gemma", FORM, OracleOptions(cache=False))


def test_without_its_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(gemma, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match=r"promptfed\[gemma\]"):
        load_oracle("gemma", FORM, OracleOptions())
    with pytest.raises(ConfigError, match="local:FOLDER"):
        load_oracle("gemma:1b", FORM, OracleOptions())


def test_what_is_made_is_there_whole_or_not_at_all(tmp_path):
    def half(path: Path) -> None:
        path.mkdir()
        (path / "config.json").write_text("{")
        raise OSError("no space left on device")

    target = tmp_path / "models" / "gemma"
    with pytest.raises(BackboneError, match="no space left"):
        gemma._made_once(target, half)
    assert not target.exists()
    made: list[Path] = []
    for _ in range(2):
        gemma._made_once(target, lambda path: (made.append(path), path.write_text("whole")))
    assert target.read_text() == "whole"
    assert len(made) == 1
    assert {path.name for path in target.parent.iterdir()} == {"gemma", "gemma.lock"}


@pytest.mark.slow
@needs_gemma
def test_zero_shot_favours_the_right_label(oracle):
    scores = oracle.score([Candidate()], ITEMS, CLASSES)[0]
    assert scores.isfinite().all()
    assert (scores < 0).all(), "log-probabilities"
    right = (scores - scores.mean(0)).argmax(-1) == LABELS
    assert right.sum() >= 6


@pytest.mark.slow
@needs_gemma
def test_soft_prompts_batches_and_words(oracle):
    backend = oracle.backend
    words = "An honest review:"
    soft = backend.embedded(backend.tokens.start(words))
    together = oracle.score([Candidate(), Candidate(words), Candidate(soft=soft)], ITEMS, CLASSES)
    torch.testing.assert_close(together[1], together[2], atol=1e-3, rtol=0)
    alone = Oracle(backend).score([Candidate()], [ITEMS[3]], CLASSES)
    torch.testing.assert_close(alone[0, 0], together[0, 3], atol=1e-3, rtol=0)
    assert 0.9 < oracle.soft.std < 1.2, "about 0.04 in the table, times the root of 640"
    assert len(oracle.propose("This movie was really", "", 5)) == 5
    assert oracle.generate(["one two three four five six"], max_tokens=2)[0].split()[0] == "seven"


@pytest.mark.slow
@needs_gemma
def test_local_and_remote_scores_agree(oracle):
    """The server computes with 4-bit weights and 8-bit activations, this process with the same weights as floats."""
    pytest.importorskip("xllamacpp")
    pytest.importorskip("promptfed.blackbox.oracles.remote.openai")
    from promptfed.blackbox.oracles.remote.server import serving

    here = oracle.score([Candidate()], ITEMS, CLASSES)[0]
    with serving("gemma") as served:
        options = OracleOptions(base_url=served.base_url, model=served.model, cache=False)
        remote = load_oracle("api", FORM, options)
        there = remote.score([Candidate()], ITEMS, CLASSES)[0]
        remote.close()
    assert (here - there).abs().max() < 1.0
    margins = [scores[:, 1] - scores[:, 0] for scores in (here, there)]
    assert (margins[0] - margins[1]).abs().mean() < 0.3
