"""What a server may do to the one who asks it: nothing beyond an answer of ordinary size, at its own address."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from promptfed.blackbox.oracle_factory import load_oracle
from promptfed.blackbox.oracles.cache import AnswerCache
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.remote.credentials import Key
from promptfed.errors import OracleError
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import PromptTemplate

SECRET = "gsk_4f9ab7c2e1d8xyz"
Answering = Callable[[str], tuple[int, dict[str, str], bytes | None]]
Serve = Callable[[Answering], tuple[Oracle, list[str], int]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """``serve(answering)``: an oracle on a server that answers each path so (body None: without an end), the paths that
    were asked for, and the port of a second server, which writes into the same list."""
    pytest.importorskip("openai")
    monkeypatch.setenv("MY_KEY", SECRET)
    servers = []

    def begin(answering: Answering) -> tuple[Oracle, list[str], int]:
        paths: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: object) -> None: ...

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                paths.append(f"{self.server.server_address[1]}{self.path}")
                status, headers, body = answering(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if body is not None:
                    self.send_header("content-length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body or b"")
                    while body is None:
                        self.wfile.write(b"x" * 1_000_000)
                except OSError:
                    self.close_connection = True

            def do_GET(self) -> None:
                self.do_POST()

        for _ in range(2):
            servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            servers[-1].daemon_threads = True
            threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        first, second = (server.server_address[1] for server in servers[-2:])
        options = OracleOptions(
            base_url=f"http://127.0.0.1:{first}/v1", model="m", api_key_env="MY_KEY", retries=0, mode="completions"
        )
        return load_oracle("api", PromptTemplate(), options, cache=AnswerCache(None)), paths, second

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


def answer(**changed: object) -> bytes:
    return json.dumps({"model": "m", "choices": [{"index": 0, "text": " a"}], **changed}).encode()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_leads_to_another_server(serve: Serve, status: int) -> None:
    place: list[int] = []
    oracle, paths, other = serve(lambda path: (status, {"Location": f"http://127.0.0.1:{place[0]}/v1/stolen"}, b""))
    place.append(other)
    with pytest.raises(OracleError, match=f"redirects to another server, http://127.0.0.1:{other}"):
        oracle.generate(["hi"], max_tokens=2)
    assert not any(path.startswith(str(other)) for path in paths)


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_within_the_server_is_followed(serve: Serve, status: int) -> None:
    oracle, paths, _ = serve(
        lambda path: (200, {}, answer()) if path.startswith("/ok") else (status, {"Location": "/ok" + path}, b"")
    )
    assert oracle.generate(["hi"], max_tokens=2) == [" a"]
    assert any("/ok/v1/completions" in path for path in paths)


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_lose_the_question_is_refused(serve: Serve, status: int) -> None:
    oracle, _, _ = serve(lambda path: (status, {"Location": "/ok" + path}, b""))
    with pytest.raises(OracleError, match="would lose the question"):
        oracle.generate(["hi"], max_tokens=2)


@pytest.mark.parametrize(
    ("headers", "body", "says"),
    [
        ({"Content-Encoding": "gzip"}, b"\x1f\x8b" + bytes(50), "is compressed"),
        ({"Content-Encoding": "gzip, br"}, b"x", "is compressed"),
        ({f"X-{n}": "1" for n in range(400)}, b"{}", "headers"),
        ({}, None, "larger than 32 MB"),
        ({}, answer(usage={"prompt_tokens": 10**30}), r"an integer is beyond 64 bits \(31 digits\)"),
        ({}, answer(usage={"prompt_tokens": 10**18}), r"10\^18 tokens"),
        ({}, answer(usage={"completion_tokens": 2 * 10**9}), r"10\^9 tokens"),
        ({}, b"[" * 100_000, "nested deeper than 64 levels"),
        ({}, b'{"model": "m", "model": "n"}', "the key 'model' twice"),
        ({}, b'{"model": "m", "choices": [', "not usable JSON, or was cut off: Expecting value"),
        ({}, b"[1]", "not a JSON object"),
        ({}, b'{"model": "\xff"}', "not UTF-8"),
    ],
)
def test_an_answer_out_of_measure_is_one_line(
    serve: Serve, headers: dict[str, str], body: bytes | None, says: str
) -> None:
    oracle, _, _ = serve(lambda path: (200, headers, body))
    with pytest.raises(OracleError, match=says) as error:
        oracle.generate(["hi"], max_tokens=2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", [SECRET, SECRET[:12], SECRET[3:17], "x" + SECRET[-12:]])
def test_no_part_of_a_key_comes_back(serve: Serve, part: str) -> None:
    oracle, _, _ = serve(lambda path: (200, {}, answer(model=part)))
    with pytest.raises(OracleError, match="answers with model") as error:
        oracle.generate(["hi"], max_tokens=2)
    assert not any(SECRET[at : at + 12] in str(error.value) for at in range(len(SECRET) - 11))


def test_shorter_pieces_stay() -> None:
    key = Key(SECRET, True)
    assert key.kept_out(SECRET[:11]) == SECRET[:11]
    assert key.clean({"a": [f"<{SECRET[2:15]}>", 3, None]}) == {"a": ["<[key]>", 3, None]}


def test_an_alias_is_said_and_then_taken(serve: Serve) -> None:
    oracle, _, _ = serve(lambda path: (200, {}, answer(model="gpt-4o-2024-08-06")))
    with pytest.raises(OracleError, match=r"oracle.served_model='gpt-4o-2024-08-06'"):
        oracle.generate(["hi"], max_tokens=2)
    options = oracle.backend.options.model_copy(update={"served_model": "gpt-4o-2024-08-06"})
    assert load_oracle("api", PromptTemplate(), options, cache=AnswerCache(None)).generate(["hi"], max_tokens=2) == [
        " a"
    ]
    other = options.model_copy(update={"served_model": "gpt-5"})
    with pytest.raises(OracleError, match=r"as oracle\.served_model says"):
        load_oracle("api", PromptTemplate(), other, cache=AnswerCache(None)).generate(["hi"], max_tokens=2)
