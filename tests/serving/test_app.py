"""The HTTP interface: what it answers, and what it refuses in one line."""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
from fastapi.testclient import TestClient

from promptfed.export.predict import Prediction
from promptfed.serving.app import make_app
from promptfed.serving.asked import InMemory
from promptfed.serving.service import Service

Asks = Callable[..., TestClient]


@pytest.fixture
def client_of(make_service: Callable[..., Service]) -> Asks:
    """``client_of(token="x", max_files=2)``: a client of a service with these limits."""

    def make(token: str | None = None, hosts: frozenset[str] = frozenset(), **limits: Any) -> TestClient:
        return TestClient(make_app(make_service(**limits), token=token, hosts=hosts), raise_server_exceptions=True)

    return make


def files(*contents: bytes, field: str = "files") -> list[tuple[str, tuple[str, bytes]]]:
    return [(field, (f"{i}.png", content)) for i, content in enumerate(contents)]


def test_files_and_json_get_the_same_answers(client_of: Asks, png: Callable[..., bytes]) -> None:
    client = client_of()
    form = client.post("/v1/classify", files=files(png("red"), png("blue")), data={"top": "2", "threshold": "0.999"})
    assert form.status_code == 200
    assert form.headers["cache-control"] == "no-store"
    answer = form.json()
    assert answer["bundle"] == "first"
    assert [result["name"] for result in answer["results"]] == ["0.png", "1.png"]
    assert all(len(result["ranked"]) == 2 and result["error"] is None for result in answer["results"])
    assert all((result["best"], result["none_of_these"]) == (None, True) for result in answer["results"])
    coded = [base64.b64encode(png(name)).decode() for name in ("red", "blue")]
    coded[1] = f"data:image/png;base64,{coded[1]}"
    body = {"images": coded, "top": 2, "threshold": 0, "bundle": "second"}
    other = client.post("/v1/classify", json=body).json()
    assert other["bundle"] == "second"
    shares = [[result["ranked"] for result in each["results"]] for each in (answer, other)]
    for one, same in zip(*shares, strict=True):
        assert [row["class"] for row in one] == [row["class"] for row in same]
        assert [row["probability"] for row in one] == pytest.approx([row["probability"] for row in same])
    assert other["results"][0]["best"] == other["results"][0]["ranked"][0]["class"]


@pytest.mark.parametrize("classes", ["pink, cyan", '["pink", "cyan"]', ["pink", "cyan"]])
def test_other_classes_may_be_asked_for(client_of: Asks, png: Callable[..., bytes], classes: Any) -> None:
    answer = client_of().post("/v1/classify", files=files(png()), data={"classes": classes}).json()
    assert {row["class"] for row in answer["results"][0]["ranked"]} == {"pink", "cyan"}


def test_a_bad_file_costs_its_own_answer(client_of: Asks, png: Callable[..., bytes]) -> None:
    client = client_of()
    reply = client.post("/v1/classify", files=files(png(), b"<html>", png()[:40]))
    assert reply.status_code == 200
    good, page, torn = reply.json()["results"]
    assert (good["error"], page["best"], torn["ranked"]) == (None, None, [])
    assert "it is a web page" in page["error"]
    assert "cannot decode image 2.png" in torn["error"]
    reply = client.post("/v1/classify", files=files(b""))
    assert (reply.status_code, list(reply.json())) == (422, ["error"])


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        ({"content": b"x"}, 415, "content type is '': send multipart/form-data"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "no JSON that is read here"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "form cannot be read"),
        ({"json": []}, 422, "must be an object"),
        ({"json": {}}, 422, "nothing to classify"),
        ({"json": {"images": "abc"}}, 422, "images must be a list of strings"),
        ({"json": {"images": ["*"]}}, 422, r"images\[0\] is no base64"),
        ({"json": {"texts": ["a"]}}, 422, "bundle 'first' is for images: send those"),
        ({"json": {"texts": ["a"], "images": ["YQ=="]}}, 422, "send either images or texts"),
        ({"json": {"texts": ["a"], "tob": 1}}, 422, "no field 'tob': give files, images, texts, bundle"),
        ({"json": {"texts": ["a"], "bundle": "third"}}, 404, "no bundle 'third'; this server has first, second"),
        ({"json": {"images": ["YQ=="], "top": 0}}, 422, "top is 0"),
        ({"json": {"images": ["YQ=="], "top": True}}, 422, "top must be a number"),
        ({"json": {"images": ["YQ=="], "threshold": 2}}, 422, "threshold is 2: give a probability"),
        ({"json": {"images": ["YQ=="], "classes": ["a"]}}, 422, "at least two are needed"),
        ({"json": {"images": ["YQ=="], "classes": []}}, 422, "at least two are needed"),
        ({"json": {"images": ["YQ=="], "classes": "ab"}}, 422, "classes must be a list of names"),
        ({"json": {"images": ["YQ=="], "classes": [1, 2]}}, 422, "classes must be a list of names"),
        ({"json": {"images": ["YQ=="] * 5}}, 413, "5 examples are too many for one request: 4 at most"),
        ({"json": {"images": ["YQ=="], "classes": ["a", "b", "c", "d"]}}, 413, "4 classes are too many: 3 at most"),
        ({"json": {"images": ["YWFh" * 4000]}}, 413, r"images\[0\] has more than 0.01 MB"),
        ({"json": {"images": ["YWFh" * 9000]}}, 413, "the request has more than 0.03 MB"),
        ({"files": files(b"a" * 12_000)}, 413, "0.png has more than 0.01 MB"),
        ({"files": files(*[b"a"] * 5)}, 413, "Too many files"),
        ({"files": files(b"a"), "data": {"top": "x"}}, 422, "top is 'x': give a number"),
        ({"files": files(b"a"), "data": {"classes": '["a", 1]'}}, 422, "classes must be a list of names"),
        ({"files": files(b"a"), "data": {"what": "x"}}, 422, "no field 'what'"),
        ({"json": {"images": ["YQ=="]}, "headers": {"origin": "http://evil.org"}}, 403, "pages of other sites"),
    ],
)
def test_what_is_wrong_is_one_line(client_of: Asks, request_: dict[str, Any], status: int, said: str) -> None:
    client = client_of(max_files=4, max_file_mb=0.01, max_request_mb=0.03, max_classes=3)
    reply = client.post("/v1/classify", **request_)
    assert reply.status_code == status, reply.text
    assert list(reply.json()) == ["error"]
    assert re.search(said, reply.json()["error"]), reply.text
    assert "\n" not in reply.json()["error"]


def test_a_body_without_a_length_is_bounded_too(client_of: Asks) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b"a" * 1000

    client = client_of(max_request_mb=0.03)
    reply = client.post("/v1/classify", content=parts(), headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"][:27]) == (413, "the request has more than 0")


def test_a_token_is_asked_for_where_there_is_one(client_of: Asks, png: Callable[..., bytes]) -> None:
    client = client_of(token="s3cret")
    for path in ("/health", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    for header in ("", "Bearer wrong", "Basic s3cret", "Bearer s3crét"):
        reply = client.get("/v1/bundle", headers={"authorization": header.encode()})
        assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
    headers = {"authorization": "Bearer s3cret"}
    assert client.get("/v1/bundle", headers=headers).json()["classes"] == ["red", "green", "blue", "ochre"]
    assert client.post("/v1/classify", files=files(png()), headers=headers).status_code == 200


def test_it_answers_to_its_own_names_only(client_of: Asks) -> None:
    client = client_of(hosts=frozenset({"127.0.0.1", "localhost"}))
    for host, status in (("localhost:8000", 200), ("127.0.0.1", 200), ("evil.org", 421), ("evil.org:8000", 421)):
        assert client.get("/health", headers={"host": host}).status_code == status


def test_health_and_bundle_say_what_is_served(client_of: Asks) -> None:
    client = client_of()
    health = client.get("/health").json()
    assert health["bundles"] == {"first": "ab" * 32, "second": "ab" * 32}
    assert (health["status"], health["model"], health["waiting"]) == ("ok", "toy", 0)
    facts = client.get("/v1/bundle", params={"name": "second"}).json()
    assert (facts["name"], facts["method"], facts["rounds"]) == ("second", "promptfl", 3)
    assert client.get("/v1/bundle", params={"name": "x"}).status_code == 404
    assert client.get("/nothing").json() == {"error": "Not Found"}
    assert client.get("/v1/classify").json() == {"error": "Method Not Allowed"}


def test_a_full_queue_and_too_many_requests_are_told_to_come_back(
    client_of: Asks, png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from promptfed.serving.batching import QueueFullError

    client = client_of()

    def full(*_: object) -> Future[list[Prediction]]:
        raise QueueFullError("9 examples wait already: try again in a moment")

    monkeypatch.setattr(Service, "submit", full)
    reply = client.post("/v1/classify", files=files(png()))
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    monkeypatch.setattr(Service, "submit", lambda *_: Future())
    slow = client_of(answer_seconds=0.01).post("/v1/classify", files=files(png()))
    assert (slow.status_code, slow.json()["error"]) == (504, "the answer takes too long: try again later")


def test_a_fault_says_its_kind_and_nothing_of_the_request(
    client_of: Asks, png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("secret.png")

    monkeypatch.setattr(Service, "submit", fail)
    with caplog.at_level(logging.DEBUG):
        reply = client_of().post("/v1/classify", files=files(png()))
    assert (reply.status_code, reply.json()) == (500, {"error": "a fault of promptfed's: KeyError"})
    assert "0.png" not in caplog.text


def test_the_page_asks_no_other_server(client_of: Asks) -> None:
    client = client_of()
    reply = client.get("/docs")
    assert "http://" not in reply.text.replace("http://HOST:PORT", "")
    assert "https://" not in reply.text
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    assert client.get("/", follow_redirects=False).headers["location"] == "/docs"
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/v1/classify", "/v1/bundle", "/health"}
    body = schema["paths"]["/v1/classify"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/json"}
    assert json.dumps(schema)


def test_uploads_never_touch_the_disk() -> None:
    assert InMemory.spool_max_size > 10**15
