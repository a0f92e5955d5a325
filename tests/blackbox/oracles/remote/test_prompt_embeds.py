"""Soft prompts over HTTP: a server that really decodes them and runs a model scores as the model in this process."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from promptfed.blackbox.oracle_factory import load_oracle
from promptfed.blackbox.oracles.cache import AnswerCache
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.oracles.remote.prompt_embeds import packed
from promptfed.cli import main
from promptfed.errors import BackboneError, ConfigError, OracleError
from promptfed.examples.base import TextItem
from promptfed.oracle_options import OracleOptions

CLASSES = ("good", "bad")
ITEMS = [TextItem("a great movie"), TextItem("the plot was terrible and boring"), TextItem("it was")]


class EmbedsServer:
    """vLLM's form, as strict as it should be: dense 2-D floats of the model's width, all finite, nothing else."""

    def __init__(self, model: Any, tokenizer: Any, *, takes_ids: bool = True, most_top: int = 20) -> None:
        self.model, self.tokenizer, self.takes_ids, self.most_top = model, tokenizer, takes_ids, most_top
        self.asked: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: Any) -> None: ...

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append(body)
                try:
                    status, reply = 200, outer.answered(body)
                except ValueError as error:
                    status, reply = 400, {"error": {"message": str(error)}}
                data = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answered(self, body: dict[str, Any]) -> dict[str, Any]:
        vectors = self.decoded(body["prompt_embeds"])
        if body.get("logprob_token_ids") and not self.takes_ids:
            raise ValueError("unknown field logprob_token_ids")
        if body["logprobs"] > self.most_top:
            raise ValueError("logprobs too large")
        with torch.no_grad():
            logits = self.model(inputs_embeds=vectors[None]).logits[0, -1].float()
        probs = logits.log_softmax(-1)
        wanted = {*probs.topk(body["logprobs"]).indices.tolist(), *body.get("logprob_token_ids", ())}
        as_ids = body.get("return_tokens_as_token_ids", False)
        names = {n: f"token_id:{n}" if as_ids else self.tokenizer.decode([n]) for n in wanted}
        best = int(probs.argmax())
        found = {
            "tokens": [names[best]],
            "token_logprobs": [probs[best].item()],
            "top_logprobs": [{names[n]: probs[n].item() for n in wanted}],
        }
        usage = {"prompt_tokens": len(vectors), "completion_tokens": 1}
        choice = {"index": 0, "text": self.tokenizer.decode([best]), "logprobs": found, "finish_reason": "length"}
        return {
            "id": "x",
            "object": "text_completion",
            "created": 0,
            "model": "tiny",
            "choices": [choice],
            "usage": usage,
        }

    def decoded(self, payload: str) -> torch.Tensor:
        vectors = torch.load(io.BytesIO(base64.b64decode(payload, validate=True)), weights_only=True)
        if not isinstance(vectors, torch.Tensor) or vectors.layout is not torch.strided:
            raise ValueError("prompt_embeds must be a dense tensor")
        if vectors.dim() != 2 or vectors.shape[1] != self.model.config.hidden_size or not vectors.is_floating_point():
            raise ValueError("prompt_embeds must be (tokens, hidden) floats")
        if not torch.isfinite(vectors).all():
            raise ValueError("prompt_embeds must be finite")
        if vectors.untyped_storage().nbytes() != vectors.numel() * vectors.element_size():
            raise ValueError("prompt_embeds must hold its own numbers only")
        return vectors


@pytest.fixture
def served(tiny_model: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    begun: list[EmbedsServer] = []

    def make(
        kind: str, template: str = "{{ prompt }} {{ text }} sentiment :", **how: Any
    ) -> tuple[Any, EmbedsServer, Path]:
        local = tiny_model(kind, template)
        folder = tmp_path / kind
        local.model.save_pretrained(folder)
        local.tokens.tokenizer.save_pretrained(folder)
        begun.append(EmbedsServer(local.model, local.tokens.tokenizer, **how))
        return local, begun[-1], folder

    yield make
    for server in begun:
        server.close()


def connect(local: Any, server: EmbedsServer, folder: Path, **more: Any) -> Oracle:
    options = {"base_url": server.base_url, "model": "tiny", "embeddings": str(folder), "backoff_seconds": 0.0, **more}
    return load_oracle("embeds", local.form, OracleOptions(**options), cache=AnswerCache(None))


def prompts(dim: int) -> list[Candidate]:
    stream = torch.Generator().manual_seed(3)
    return [Candidate(), Candidate("not very"), Candidate(soft=torch.randn(5, dim, generator=stream) * 0.3)]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma"])
@pytest.mark.parametrize("template", ["{{ prompt }} {{ text }} sentiment :", "review : {{ text }}\n{{ prompt }} says"])
def test_scores_are_those_of_the_model_in_this_process(served, kind, template):
    local, server, folder = served(kind, template)
    oracle, here = connect(local, server, folder), Oracle(local)
    assert oracle.soft.dim == here.soft.dim
    assert oracle.soft.std == pytest.approx(here.soft.std, rel=0.05)
    assert torch.allclose(oracle.soft.words, here.soft.words, atol=1e-6)
    several = prompts(here.soft.dim)
    found = oracle.score(several, ITEMS, CLASSES)
    assert torch.allclose(found, here.score(several, ITEMS, CLASSES), atol=2e-5)
    assert oracle.usage().oracle_calls == len(server.asked) == 9 + 1
    assert oracle.usage().labels_floored == 0
    assert oracle.usage().prompt_tokens > 9 * 5


def test_a_server_without_the_two_extra_fields_is_asked_without(served):
    local, server, folder = served("gpt2", takes_ids=False, most_top=100)
    oracle = connect(local, server, folder)
    found, here = oracle.score(prompts(32), ITEMS, CLASSES), Oracle(local).score(prompts(32), ITEMS, CLASSES)
    assert "logprob_token_ids" not in server.asked[-1]
    assert 0 < oracle.usage().labels_floored < found.numel()
    answered = found.isfinite()  # of no use is an answer in which all labels are missing
    assert (~answered).sum() == oracle.usage().oracle_unanswered * len(CLASSES) > 0
    assert ((found - here).abs()[answered] < 2e-5).sum() == answered.sum() - oracle.usage().labels_floored


def test_what_a_server_should_not_get_is_not_sent(served):
    local, server, folder = served("gpt2")
    oracle = connect(local, server, folder)
    oracle.score([Candidate()], ITEMS[:1], CLASSES)
    asked = len(server.asked)
    bad = torch.zeros(2, 32)
    bad[1, 3] = float("nan")
    for soft, says in ((bad, "not finite"), (torch.full((2, 32), 1e6), "beyond"), (torch.zeros(2, 31), r"\(n, 32\)")):
        with pytest.raises(OracleError, match=says):
            oracle.score([Candidate(soft=soft)], ITEMS[:1], CLASSES)
    assert len(server.asked) == asked


def test_the_server_refuses_what_is_not_dense_finite_and_of_its_width(served):
    _, server, _ = served("gpt2")
    assert torch.equal(server.decoded(packed(torch.ones(3, 32))), torch.ones(3, 32))
    assert torch.equal(server.decoded(packed(torch.ones(9, 32)[3:5])), torch.ones(2, 32))
    buffer = io.BytesIO()
    torch.save(torch.eye(32).to_sparse(), buffer)
    sparse = base64.b64encode(buffer.getvalue()).decode()
    for payload in (
        sparse,
        packed(torch.full((1, 32), float("inf"))),
        packed(torch.ones(3, 16)),
        packed(torch.ones(4)),
    ):
        with pytest.raises(ValueError, match="prompt_embeds"):
            server.decoded(payload)


def test_the_wrong_embeddings_are_noticed(served, tmp_path):
    local, server, folder = served("gpt2")
    server.model = served("llama")[0].model
    server.model.config.hidden_size = 16
    with pytest.raises(OracleError, match=r"does not take prompt_embeds.*--enable-prompt-embeds"):
        connect(local, server, folder).score([Candidate()], ITEMS, CLASSES)
    with pytest.raises(ConfigError, match="32 numbers"):
        connect(local, server, folder, soft_dim=64)
    with pytest.raises(BackboneError, match="no folder"):
        connect(local, server, tmp_path)
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0" + b"{" * 16)
    with pytest.raises(BackboneError, match="cannot read the token embeddings"):
        connect(local, server, folder)


def test_labels_that_begin_alike_are_refused(served):
    local, server, folder = served("gpt2")
    with pytest.raises(OracleError, match="tokens of their own"):
        connect(local, server, folder).score([Candidate()], ITEMS, ("good", "good movie"))


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_predict_names_the_embeddings_of_a_bundle(served, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    _, server, folder = served("gpt2")
    other = served("llama")[2]
    lines = [f"the {'great' if k % 2 else 'boring'} movie {k}\t{CLASSES[1 - k % 2]}" for k in range(24)]
    (tmp_path / "films.tsv").write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    data = ["--task", "blackbox-text", "--data", f"tsv:{tmp_path / 'films.tsv'}", "--clients", 2, "--shots", 2]
    oracle = ["--oracle", "embeds", "--base-url", server.base_url, "--model", "tiny"]
    oracle += ["--set", f"oracle.embeddings={folder}", "--set", "oracle.backoff_seconds=0"]
    search = ["--method", "fedavg_bbt", "--rounds", 1, "--baselines", "none", "--set", "task.val_shots=1"]
    search += ["--set", "method.queries=80", "--set", "method.batch_size=2", "--set", "method.keep_zero_shot=false"]
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    assert command("train", *data, *oracle, *search, "--run", run, "--quiet") == 0, capsys.readouterr().err
    assert command("export", run, "--client", 0, "--out", bundle) == 0, capsys.readouterr().err
    assert str(folder) not in (bundle / "promptfed_config.json").read_text()
    assert "--embeddings DIR" in (bundle / "README.md").read_text()
    moved = folder.rename(tmp_path / "elsewhere")
    capsys.readouterr()

    before = len(server.asked)
    assert command("predict", bundle, "a great movie") == 2
    said = capsys.readouterr().err
    assert "name a folder of the same model ('tiny') by --embeddings DIR" in said
    assert said.count("\n") == 1
    for wrong, why in ((tmp_path / "none", "no folder"), (tmp_path, "no folder"), (other, "does not fit oracle")):
        assert command("predict", bundle, "a great movie", "--embeddings", wrong) == 2
        said = capsys.readouterr().err
        assert why in said
        assert said.count("\n") == 1
    assert len(server.asked) == before

    assert command("predict", bundle, "a great movie", "--embeddings", moved, "--top", 1) == 0
    said = capsys.readouterr().out
    assert said.startswith(("a great movie: good ", "a great movie: bad "))
    assert len(server.asked) > before
