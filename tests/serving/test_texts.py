"""Bundles for language models are served as those for images are; what they remember of texts is dropped."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
from fastapi.testclient import TestClient

from promptfed.config import RunConfig
from promptfed.export.bundle import make_bundle
from promptfed.export.predict import Predictor
from promptfed.methods.fedprompt import FedPrompt, FedPromptConfig
from promptfed.prompt_state import PromptState
from promptfed.serving import service as module
from promptfed.serving.app import make_app
from promptfed.serving.limits import ServeLimits
from promptfed.serving.service import Service
from promptfed.types import ClientPrompt

from ..tiny_language_models import TEXTS, setup


def test_texts_get_the_answers_of_predict(monkeypatch: pytest.MonkeyPatch) -> None:
    around = setup("bert")
    method = FedPrompt(FedPromptConfig(n_tokens=3), around)
    stream = torch.Generator().manual_seed(3)
    moved = {name: t + 0.5 * torch.randn(t.shape, generator=stream) for name, t in method.init_shared().items()}
    options = method.config.model_dump(mode="json")
    config = RunConfig(
        task="text-classification", method="fedprompt", backbone="lm:bert", rounds=3, method_options=options
    )
    bundle = make_bundle(config, method, ClientPrompt(PromptState(moved)), 0, "client 0", "texts")
    expected = [dict(each.ranked) for each in Predictor(bundle, around.model).predict(TEXTS)]
    monkeypatch.setattr(module, "REFRESH", 3)
    service = Service({"texts": bundle}, around.model, {"texts": "ab" * 32}, ServeLimits())
    service.warm_up()
    client = TestClient(make_app(service))
    reply = client.post("/v1/classify", json={"texts": list(TEXTS), "threshold": 0})
    assert reply.status_code == 200, reply.text
    results = reply.json()["results"]
    assert [result["name"] for result in results] == [f"texts[{i}]" for i in range(len(TEXTS))]
    for result, shares in zip(results, expected, strict=True):
        assert {row["class"]: row["probability"] for row in result["ranked"]} == pytest.approx(shares, abs=1e-5)
    assert service.model is not around.model  # a fresh one, which has seen no text
    [one] = client.post("/v1/classify", data={"texts": TEXTS[0]}, files={"x": b""}).json().values()
    assert "no field" in one or "images or texts" in one
    refused = client.post("/v1/classify", json={"images": ["YQ=="]})
    assert (refused.status_code, refused.json()["error"]) == (422, "bundle 'texts' is for texts: send those")
    assert "Texts, one a line" in client.get("/docs").text
    service.close()
