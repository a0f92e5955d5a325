"""The HTTP client of oracles: redirects stay within one server, answers are bounded, nothing is decompressed."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import Any

from promptfed.printable import printable

LARGEST_BODY = 32_000_000
"""Most bytes of one answer; 10,000 log-probabilities take one million."""
MOST_HEADERS = 200
MOST_REDIRECTS = 5
METHOD_KEEPING = (307, 308)
"""Redirects that repeat the request as it is; the others would turn it into another one."""


CONNECT_SECONDS = 4.0
"""A server that does not take a connection in that time is not there."""


class Unsafe(Exception):  # noqa: N818 (becomes an OracleError)
    """Error of a server that does something that no server of an oracle has to do."""


def _library(openai: Any) -> Any:
    """Return the HTTP library that ``openai`` uses."""
    return importlib.import_module("httpx2" if hasattr(openai, "DefaultAsyncHttpx2Client") else "httpx")


def timeouts(openai: Any, seconds: float) -> Any:
    """Return the limits of a request: ``seconds``, and ``CONNECT_SECONDS`` at most until there is a connection."""
    return _library(openai).Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))


def guarded_client(openai: Any, timeout: float) -> Any:
    """Return an asynchronous HTTP client for ``openai`` (the module) that raises Unsafe for unsafe responses."""
    library = _library(openai)
    stream_class: Any = library.AsyncByteStream

    class Bounded(stream_class):
        """A body that ends with Unsafe at ``LARGEST_BODY`` bytes."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in self.stream:
                size += len(part)
                if size > LARGEST_BODY:
                    raise Unsafe(f"its answer is larger than {LARGEST_BODY // 1_000_000} MB and was not read further")
                yield part

        async def aclose(self) -> None:
            await self.stream.aclose()

    async def check(response: Any) -> None:
        _check_headers(response)
        if response.has_redirect_location:
            _check_redirect(response)
        response.stream = Bounded(response.stream)

    return library.AsyncClient(
        timeout=timeouts(openai, timeout),
        max_redirects=MOST_REDIRECTS,
        follow_redirects=True,
        event_hooks={"response": [check]},
        headers={"Accept-Encoding": "identity"},
    )


def _check_headers(response: Any) -> None:
    if len(response.headers.raw) > MOST_HEADERS:
        raise Unsafe(f"its answer has {len(response.headers.raw)} headers; at most {MOST_HEADERS} are read")
    encoding = str(response.headers.get("content-encoding", "identity")).strip().lower()
    if encoding not in ("", "identity"):
        raise Unsafe(
            f"its answer is compressed ('{printable(encoding, 40)}'), which was not asked for: turn that off there"
        )
    length = str(response.headers.get("content-length", ""))
    if length.isdigit() and (len(length) > 18 or int(length) > LARGEST_BODY):
        raise Unsafe(f"its answer is larger than {LARGEST_BODY // 1_000_000} MB and was not read")


def _check_redirect(response: Any) -> None:
    source = response.request.url
    try:
        target = source.join(response.headers["location"])
    except Exception:  # what the library raises for an address that is none
        raise Unsafe("it redirects to something that is no address") from None
    if _origin(source) != _origin(target):
        raise Unsafe(
            f"it redirects to another server, {printable('{}://{}:{}'.format(*_origin(target)), 100)}: nothing was "
            "sent there; if that is the server you mean, give its address by --base-url"
        )
    if response.status_code not in METHOD_KEEPING:
        raise Unsafe(
            f"it redirects with status {response.status_code} to {printable(target.path, 100)}, which would lose the "
            "question: give the address that it redirects to by --base-url"
        )


def _origin(url: Any) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)
