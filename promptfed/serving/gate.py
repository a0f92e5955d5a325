"""Who may ask, and how many at once: checked before a byte of a request's body is read."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from promptfed.serving.limits import ServeLimits

OPEN = frozenset({"/", "/docs", "/openapi.json", "/health"})
"""Paths that need no token: they say nothing of the bundles but the name of the model."""
HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
"""Of every answer."""


class Gate:
    """Middleware in front of the application.

    Args:
        app: The application.
        limits: How much is taken.
        token: What requests must carry (``Authorization: Bearer TOKEN``); None: nothing.
        hosts: Names that the server is called by; a page of another site that has its name point here is refused.
            Empty: any.
    """

    def __init__(self, app: ASGIApp, limits: ServeLimits, token: str | None, hosts: frozenset[str]) -> None:
        self.app, self.limits, self.token, self.hosts = app, limits, token, hosts
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if refusal := self._refusal(scope, headers):
            await _answer(send, *refusal)
            return
        counts = scope["path"] not in OPEN
        self._under_way += counts
        try:
            await self.app(scope, receive, send)
        finally:
            self._under_way -= counts

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Return status and reason if the request is not let in."""
        host = headers.get("host", "").rsplit(":", 1)[0].strip("[]").lower()
        if self.hosts and host not in self.hosts:
            return 421, "this server does not go by that name: ask it by the address that it was started with"
        origin = headers.get("origin")
        if scope["method"] == "POST" and origin and origin.partition("://")[2] != headers.get("host"):
            return 403, "pages of other sites may not ask this server"
        if scope["path"] in OPEN:
            return None
        if self.token is not None and not self._has_token(headers.get("authorization", "")):
            return 401, "a token is needed: send the header Authorization: Bearer TOKEN"
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.limits.request_bytes:
            return 413, f"the request has more than {self.limits.max_request_mb:g} MB: send fewer or smaller examples"
        if self._under_way >= self.limits.max_requests:
            return 429, f"{self.limits.max_requests} requests are under way: try again in a moment"
        return None

    def _has_token(self, header: str) -> bool:
        scheme, _, token = header.partition(" ")
        assert self.token is not None, "the caller saw to it"
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self.token.encode())


async def _answer(send: Send, status: int, why: str) -> None:
    body = json.dumps({"error": why}).encode()
    extra: Mapping[str, str] = {"retry-after": "1"} if status == 429 else {}
    extra = {"www-authenticate": "Bearer"} if status == 401 else extra
    headers = {"content-type": "application/json", "content-length": str(len(body)), **HEADERS, **extra}
    if status == 413:
        headers["connection"] = "close"
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
