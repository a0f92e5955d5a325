"""The server of `promptfed watch`, on 127.0.0.1 alone.

Who has no token in the address gets nothing; a page of another site that has its name point here is refused by the
Host header. Only two things can be asked for, with GET or HEAD: the page, and the part of it that changes.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Sequence
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from promptfed.errors import ConfigError
from promptfed.watching.page import live_part, whole_page
from promptfed.watching.watched_folders import WatchedFolders

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")
PATIENCE = 10.0
"""Seconds that a connection may take for its request."""
TOKEN_BYTES = 16
PART = "now"


class WatchServer:
    """Serves the runs in ``folders`` until ``stop``; also a context manager.

    Args:
        folders: Runs, or folders with runs.
        port: On 127.0.0.1; 0 takes a free one.
        token: The secret in the address; "" draws one.

    Raises:
        ConfigError: A folder is not there, or the port is taken.
    """

    def __init__(self, folders: Sequence[Path], port: int = 0, token: str = "") -> None:
        self.watched = WatchedFolders(folders)
        self.token = token or secrets.token_urlsafe(TOKEN_BYTES)
        try:
            self._server = _Server((HOST, port), self)
        except OSError as error:
            raise ConfigError(
                f"port {port} of {HOST} cannot be used ({error.strerror or error}): another --port, or 0 for a free one"
            ) from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="watch-http", daemon=True)

    @property
    def address(self) -> str:
        """Return the address of the page, with its token."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    def __enter__(self) -> WatchServer:
        self.watched.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server and the thread that reads the runs."""
        self.watched.stop()
        self._server.shutdown()
        self._server.server_close()

    def title(self) -> str:
        """Return the heading of the page: which folders it shows."""
        return f"Watching {', '.join(folder.resolve().name for folder in self.watched.folders)}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], watch: WatchServer) -> None:
        self.watch = watch
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that leaves is no fault."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "promptfed", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        """Answer with the page, or with the part that changes."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer as to GET, without the content."""
        self._answer()

    def log_message(self, format: str, *values: Any) -> None:
        """Write no log: addresses have the token."""

    def _answer(self) -> None:
        if not self._is_called_by_its_name():
            self._send(HTTPStatus.MISDIRECTED_REQUEST, "This server answers to 127.0.0.1 only.\n")
            return
        parts = urlsplit(self.path)
        _, token, *rest = parts.path.split("/") if parts.path.count("/") > 1 else ("", "", "")
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self.server.watch.token.encode()):
            self._send(HTTPStatus.NOT_FOUND, "The address needs the token that promptfed watch printed.\n")
            return
        chosen = parse_qs(parts.query, max_num_fields=5).get("run", [""])[0][:64] if len(parts.query) < 500 else ""
        if rest == [""]:
            self._send_page(chosen)
        elif rest == [PART]:
            self._send_part(chosen)
        else:
            self._send(HTTPStatus.NOT_FOUND, "There is no such page.\n")

    def _is_called_by_its_name(self) -> bool:
        return self.headers.get("Host", "").lower() in {f"{name}:{self.server.watch.port}" for name in NAMES}

    def _send_page(self, chosen: str) -> None:
        nonce = secrets.token_urlsafe(TOKEN_BYTES)
        known = {word for word in chosen if not word.isalnum()}
        address = PART + (f"?run={chosen}" if chosen and not known else "")
        page = whole_page(self.server.watch.title(), address, nonce)
        self._send(HTTPStatus.OK, page, "text/html", script=f"'nonce-{nonce}'")

    def _send_part(self, chosen: str) -> None:
        watched = self.server.watch.watched
        with watched.lock:
            part = live_part(watched.runs(), chosen)
        tag = f'"{sha256(part.encode()).hexdigest()[:32]}"'
        if self.headers.get("If-None-Match") == tag:
            self._send(HTTPStatus.NOT_MODIFIED, "", "text/html", tag=tag)
        else:
            self._send(HTTPStatus.OK, part, "text/html", tag=tag)

    def _send(
        self, status: HTTPStatus, text: str, kind: str = "text/plain", *, tag: str = "", script: str = "'none'"
    ) -> None:
        content = text.encode("utf-8", "backslashreplace")
        policy = (
            f"default-src 'none'; script-src {script}; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            **({"ETag": tag} if tag else {}),
        }
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
