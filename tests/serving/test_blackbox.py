"""Bundles for black boxes are served as others are: answers stay in memory, and what cannot be asked is one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
from fastapi.testclient import TestClient

from promptfed.agreement import Agreement
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.build_method import build_method
from promptfed.errors import BundleError, OracleError
from promptfed.export.bundle import Bundle, write_bundle
from promptfed.export.predict import Predictor
from promptfed.prompt_state import PromptState
from promptfed.serving.app import make_app
from promptfed.serving.limits import ServeLimits
from promptfed.serving.service import Service
from promptfed.setup import Setup

from ..export.thermometer import CLASSES, FORM, Everything, Thermometer, bundled


def around(oracle: Oracle) -> Setup:
    return Setup(oracle, Agreement(classes=CLASSES, templates=FORM.prompts, rounds=3, seed=5))


def zero_shot(oracle: Oracle, examples: str = "texts") -> Bundle:
    state = PromptState({"accuracy": torch.tensor([0.2, 0.9])})
    return bundled(build_method("zero_shot", {}, around(oracle)), "zero_shot", state, examples)


def asking(bundle: Bundle, oracle: Oracle) -> TestClient:
    service = Service({"box": bundle}, oracle, {"box": "ab" * 32}, ServeLimits())
    service.warm_up()
    return TestClient(make_app(service))


def test_texts_get_the_answers_of_predict_and_nothing_is_asked_before() -> None:
    oracle = Oracle(Thermometer())
    expected = [dict(each.ranked) for each in Predictor(zero_shot(oracle), Oracle(Thermometer())).predict(["fire"])]
    client = asking(zero_shot(oracle), oracle)
    assert oracle.usage().oracle_calls == 0
    [result] = client.post("/v1/classify", json={"texts": ["fire"]}).json()["results"]
    assert {row["class"]: row["probability"] for row in result["ranked"]} == pytest.approx(expected[0])
    [none] = client.post("/v1/classify", json={"texts": ["fire"], "threshold": 0.99}).json()["results"]
    assert (none["best"], none["none_of_these"]) == (None, True)
    assert (oracle.usage().oracle_calls, oracle.usage().oracle_cache_hits) == (1, 1)


def test_soft_prompts_and_questions() -> None:
    oracle = Oracle(Thermometer())
    method = build_method("fedavg_bbt", {"dim": 6, "n_tokens": 3}, around(oracle))
    soft = bundled(method, "fedavg_bbt", PromptState({"z": torch.arange(6.0)}))
    [result] = asking(soft, oracle).post("/v1/classify", json={"texts": ["ice"]}).json()["results"]
    assert result["best"] in CLASSES
    client = asking(zero_shot(oracle, "questions"), oracle)
    [answer] = client.post("/v1/classify", json={"texts": ["What are 3 and 4?"]}).json()["results"]
    assert answer["best"] == "7"


def test_images(png: Callable[..., bytes]) -> None:
    oracle = Oracle(Everything())
    client = asking(zero_shot(oracle, "images"), oracle)
    files = [("files", ("fire.png", png())), ("files", ("bad.png", b"no image"))]
    results = client.post("/v1/classify", files=files).json()["results"]
    assert results[0]["best"] in CLASSES
    assert results[1]["error"].startswith("cannot decode image bad.png")


def test_a_black_box_that_fails_is_told_in_one_line() -> None:
    class Dead(Thermometer):
        def scores(self, queries):  # type: ignore[no-untyped-def]
            raise OracleError("http://127.0.0.1:1/v1 does not answer: is the server running?")

    oracle = Oracle(Dead())
    reply = asking(zero_shot(oracle), oracle).post("/v1/classify", json={"texts": ["fire"]})
    assert reply.status_code in (502, 503)
    assert "does not answer" in reply.json()["error"]


def test_another_black_box_or_template_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = Oracle(Thermometer())
    bundle = zero_shot(oracle)
    other = bundle.meta.oracle.model_copy(update={"fingerprint": "b" * 64})
    strange = replace(bundle, meta=bundle.meta.model_copy(update={"oracle": other}))
    folders = [write_bundle(tmp_path / "one", bundle), write_bundle(tmp_path / "two", strange)]
    monkeypatch.setattr("promptfed.export.loaded.load_oracle", lambda *_, **__: oracle)
    with pytest.raises(BundleError, match="oracle"):
        Service.of(folders)
