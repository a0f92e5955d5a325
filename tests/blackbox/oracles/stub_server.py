"""A server on 127.0.0.1 that speaks OpenAI's protocol, answers by a formula, and can be made to misbehave.

Its model knows a few words. The log-probability of the next word is a softmax of ``heat``: the more warm words a text
holds, the likelier is "hot" against "cold"; the other words get a fixed number each. Everything is deterministic, so
runs can be compared; every request is written down with what became of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HEAT = {"ice": -1.0, "snow": -0.5, "fire": 1.0, "lava": 0.5}
VOCABULARY = (" cold", " hot", " the", " a", " mild", " and", " of", " it", " so", " warm")
CHAT = tuple(word.strip() for word in VOCABULARY)


@dataclass
class Asked:
    """One request. ``outcome``: answered (with whatever), refused (a status other than 200) or lost on the way."""

    path: str
    body: dict[str, Any]
    authorization: str
    outcome: str = ""

    @property
    def identity(self) -> str:
        return json.dumps([self.path, self.body], sort_keys=True)


@dataclass
class Stub:
    """``fault(number, body)``: what goes wrong with the request of that number (from 1), "" if nothing.
    ``refuses(text)``: status and message for a text that is not answered; ``says(text)``: fields of the choice that
    replace what the model would say, in a chat those of its message."""

    fault: Callable[[int, dict[str, Any]], str] = lambda number, body: ""
    model: str = "toy-1"
    layout: str = "completions"
    most_top: int = 20
    caps_top: bool = False
    has_completions: bool = True
    has_chat: bool = True
    has_logprobs: bool = True
    has_echo: bool = True
    vocabulary: tuple[str, ...] = VOCABULARY
    slow: float = 0.0
    drip_seconds: float = 2.0
    on_request: Callable[[int], None] = lambda number: None
    refuses: Callable[[str], tuple[int, str] | None] = lambda text: None
    says: Callable[[str], dict[str, Any] | None] = lambda text: None
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._free = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def count(self, *outcomes: str) -> int:
        return sum(asked.outcome in outcomes for asked in self.asked)

    def close(self) -> None:
        self._free.set()
        self._server.shutdown()
        self._server.server_close()

    def reset(self) -> None:
        self.asked.clear()

    # ------------------------------------------------------------------------------------------------ the model

    def log_probs(self, text: str) -> dict[str, float]:
        heat = sum(HEAT.get(word, 0.0) for word in re.findall(r"\w+", text))
        values = {}
        for word in self.vocabulary:
            name = word.strip()
            values[word] = {"hot": heat, "cold": -heat}.get(name, -2.0 - 3.0 * _share(name))
        total = math.log(sum(math.exp(value) for value in values.values()))
        return {word: value - total for word, value in values.items()}

    def tokens(self, text: str) -> list[str]:
        """Words the model knows are one token, others pieces of three letters."""
        found = []
        for piece in re.findall(r" ?\w+|\s|[^\w\s]", text):
            known = piece in self.vocabulary or len(piece) < 4
            found += [piece] if known else [piece[k : k + 3] for k in range(0, len(piece), 3)]
        return found

    def continued(self, text: str, count: int) -> list[str]:
        """The likeliest next word; a text that repeats itself is carried on instead."""
        parts = self.tokens(text)
        for period in range(2, len(parts) // 2 + 1):
            if parts[-1 - period :: -1][:period] == parts[-1 : -1 - period : -1]:
                return [parts[len(parts) - period + k % period] for k in range(count)]
        return [max(self.log_probs(text).items(), key=lambda pair: pair[1])[0]] * min(count, 1)


def _share(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def _handler(stub: Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: Any) -> None: ...

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": stub.model, "object": "model", "created": 0}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked = Asked(self.path, body, self.headers.get("authorization", ""))
            with stub._lock:
                stub.asked.append(asked)
                number = len(stub.asked)
            stub.on_request(number)
            if stub.slow:
                time.sleep(stub.slow)
            fault = stub.fault(number, body)
            try:
                asked.outcome = "lost" if fault in ("silent", "drip", "reset") else ""
                asked.outcome = self._answered(fault, body)
            except (BrokenPipeError, ConnectionResetError):
                asked.outcome = "lost"

        def _answered(self, fault: str, body: dict[str, Any]) -> str:
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                self.connection.close()
                self.close_connection = True
                return "lost"
            if fault == "silent":
                stub._free.wait(stub.drip_seconds)
                self.close_connection = True
                return "lost"
            if fault.isdigit() or fault.startswith("429"):
                status = int(fault.split()[0])
                after = {"retry-after": fault.split()[1]} if " " in fault else {}
                said = f"status {status} for you with {self.headers.get('authorization', '')}"
                return self._send(status, {"error": {"message": said, "type": "trouble"}}, after)
            chat = self.path.endswith("/chat/completions")
            if not (stub.has_chat if chat else stub.has_completions):
                return self._send(404, {"error": {"message": "no such endpoint"}})
            if body.get("model") != stub.model and fault != "any model":
                return self._send(404, {"error": {"message": f"model {body.get('model')} does not exist"}})
            top = (body.get("top_logprobs") or 0) if chat else (body.get("logprobs") or 0)
            if top > stub.most_top and not stub.caps_top:
                return self._send(400, {"error": {"message": f"logprobs must be at most {stub.most_top}"}})
            refusal = stub.refuses(_text(chat, body))
            if refusal is not None:
                return self._send(refusal[0], {"error": {"message": refusal[1]}})
            reply = _reply(stub, chat, body, min(top, stub.most_top) if stub.has_logprobs else 0, fault)
            data = json.dumps(reply).encode()
            if fault == "truncated":
                data = data[: len(data) // 2]
            if fault == "drip":
                return self._drip(data)
            return self._raw(200, data, {})

        def _drip(self, data: bytes) -> str:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            end = time.monotonic() + stub.drip_seconds
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if stub._free.wait(0.02) or time.monotonic() > end:
                    break
            self.close_connection = True
            return "lost"

        def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> str:
            return self._raw(status, json.dumps(value).encode(), headers or {})

        def _raw(self, status: int, data: bytes, headers: dict[str, str]) -> str:
            self.send_response(status)
            for name, value in {
                "content-type": "application/json",
                "content-length": str(len(data)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            return "answered" if status == 200 else "refused"

    return Handler


def _text(chat: bool, body: dict[str, Any]) -> str:
    return "\n".join(m["content"] for m in body["messages"][-1:]) if chat else str(body["prompt"])


def _reply(stub: Stub, chat: bool, body: dict[str, Any], top: int, fault: str) -> dict[str, Any]:
    text = _text(chat, body)
    count = body.get("max_tokens") or body.get("max_completion_tokens") or 1
    said, entries = [], []
    for word in stub.continued(text, count):
        probs = stub.log_probs(text + "".join(said))
        word, probs = (word.strip(), {k.strip(): v for k, v in probs.items()}) if chat else (word, probs)
        said.append(word)
        entries.append(_entry(word, probs, top))
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
    if body.get("echo") and stub.has_echo and not chat:
        before, shown = "", []
        for token in stub.tokens(text):
            value = stub.log_probs(before).get(token, -4.0 - _share(before + token)) if before else None
            shown.append((token, value, {token: value} if before else None))
            before += token
        said, entries = [text, *said], shown + entries
    if chat:
        choice["message"] = {"role": "assistant", "content": "".join(said)}
    else:
        choice["text"] = "".join(said)
    other = stub.says(text)
    if other is not None:
        choice["finish_reason"] = other.get("finish_reason", "stop")
        fields = {name: value for name, value in other.items() if name != "finish_reason"}
        (choice["message"] if chat else choice).update(fields)
    if top and fault != "no logprobs":
        if fault == "nan logprobs":
            entries = [(token, float("nan"), dict.fromkeys(probs or {}, float("nan"))) for token, _, probs in entries]
        choice["logprobs"] = _as_content(entries) if chat or stub.layout == "chat" else _as_columns(entries)
    reply = {
        "id": "x",
        "object": "chat.completion" if chat else "text_completion",
        "created": 0,
        "model": "other-9" if fault == "wrong model" else stub.model,
        "choices": [choice],
        "usage": {"prompt_tokens": len(stub.tokens(text)), "completion_tokens": len(said) or 1},
    }
    if fault == "no usage":
        del reply["usage"]
    return reply


def _entry(word: str, probs: dict[str, float], top: int) -> tuple[str, float, dict[str, float]]:
    best = dict(sorted(probs.items(), key=lambda pair: -pair[1])[:top])
    return word, probs.get(word, -5.0), best


def _as_columns(entries: list[Any]) -> dict[str, Any]:
    tokens, values, tops = zip(*entries, strict=True)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops}


def _as_content(entries: list[Any]) -> dict[str, Any]:
    return {
        "content": [
            {"token": t, "logprob": v, "top_logprobs": [{"token": k, "logprob": x} for k, x in (top or {}).items()]}
            for t, v, top in entries
        ]
    }
